"""The executable companion to the Cl-InfoNCE papers. Read the modules in the order of the method (README.md)."""
