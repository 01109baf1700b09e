import time

import pytest

from clsl import information, runs
from clsl.lab import figures, progress
from clsl.lab.experiment import Experiment, bits, chosen, configurations
from clsl.train import Pretraining

SHORT = dict(epochs=2, batch_size=32, train_size=96)


def test_an_experiment_trains_keeps_and_compares(on_noise):
    here = Experiment("03_x", "test")
    methods = [dict(method="simclr"), dict(method="cl_infonce", clusters="attributes:k=3")]
    results = here.train(configurations(SHORT, methods, seeds=[0, 1]))
    assert results["method"].tolist() == ["simclr", "cl_infonce"] * 2 and results["k"].tolist()[1] == 3
    ours, theirs = chosen(results, method="cl_infonce", k=3), chosen(results, method="simclr")
    row = here.compare("A1", "ours > theirs", {"method": "cl_infonce", "k": 3}, {"method": "simclr"}).iloc[0]
    assert row["difference"] == pytest.approx(ours["top1"].mean() - theirs["top1"].mean()) and row["n"] == 2
    more = here.train(methods[:0], more=configurations({**SHORT, "epochs": 1}, methods[:1], seeds=[0, 1]))
    assert len(more) == 2 and len(here.results) == 6 and len(here.finished) == 6 and set(more["part"]) == {"more"}
    epochs = here.histories().merge(results[["config", "k"]].dropna())  # of the runs on attributes
    assert epochs["trained"].tolist() == [0, 1] * 2 and set(epochs["method"]) == {"cl_infonce"} and len(here.histories()) == 10
    folder = figures.folder("test")
    assert len(list((folder / "records").glob("*.json"))) == 6
    kept = figures.pd.read_csv(folder / "results.csv")
    assert len(kept) == 6 and figures.pd.read_csv(folder / "claims.csv")["comparison"].tolist() == ["ours > theirs"]
    assert here.show(results).data["method"].tolist() == ["SimCLR", "Cl-InfoNCE"] and len(here.show_verdicts().data) == 1


def test_what_clusters_know(noise):
    table = bits(noise, ["labels", "instances"])
    h_t = information.entropy(noise.labels)
    assert table.loc["labels"].tolist() == pytest.approx([len(noise.class_names), h_t, 0, h_t])
    assert table.loc["instances", "I(Z;T)"] == pytest.approx(h_t) and table.loc["instances", "clusters"] == len(noise)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="03_x has nothing to train: give at least one seed"):
        Experiment("03_x").train(configurations(SHORT, [dict(method="simclr")], seeds=[]))


def test_told_at_once(on_noise, monkeypatch, capsys):
    """What there is to do is said before anything is loaded, prepared or measured."""
    told = []
    monkeypatch.setattr(runs, "_prepare", lambda config: told.append(capsys.readouterr().err) or 1 / 0)
    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        runs.get_all([Pretraining(seed=seed, **SHORT) for seed in range(3)])
    assert told[0].startswith("3 trainings: 0 there already, 3 to do\nthe 3 to do take about ")
    assert time.perf_counter() - start < 5


def test_the_bar_counts_steps_and_the_evaluation(on_noise, monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_PROGRESS", str(tmp_path / "progress"))
    runs.get_all([Pretraining(seed=seed, **SHORT) for seed in (0, 1)])
    lines = [line for line in (tmp_path / "progress").read_text().splitlines() if line]
    assert lines[0] == "2 trainings: 0 there already, 2 to do" and lines[1].startswith("the 2 to do take about 0:0")
    assert any(line.startswith("training 1 of 2, simclr on instances · ") for line in lines)
    assert lines[-1].startswith("training 2 of 2, simclr on instances · 100 % · 00:00 left")
    shares = [int(line.split(" · ")[1].split()[0]) for line in lines[2:] if " % " in line and line.startswith("training")]
    assert shares == sorted(shares) and shares[-1] == 100
    runs.get_all([Pretraining(seed=0, **SHORT)])
    assert (tmp_path / "progress").read_text().splitlines()[-1] == "1 trainings: 1 there already, 0 to do"


def test_what_a_checkpoint_held_does_not_count_as_fast():
    config = Pretraining(train_size=3200, epochs=9, batch_size=32)
    with progress.Progress([config], there=0, committed=0) as shown, shown.training(config) as on_step:
        on_step(800)
        time.sleep(0.2)
        on_step(810)
        state = shown.bar.format_dict
        assert state["n"] == 810 and state["initial"] == 800 and state["total"] == 1000
        on_step(900)


def test_an_interruption_is_one_line(on_noise, monkeypatch):
    def interrupted(config, on_step):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train_here", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        runs.get(Pretraining(**SHORT))
    assert caught.value._render_traceback_() == ["interrupted; nothing is lost: run the cell again to go on from the last epoch"]
