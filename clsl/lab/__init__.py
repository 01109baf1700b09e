"""The laboratory: experiments and their runs, records, verdicts, figures, reports, and the papermill driver."""
