"""From a command line to a plan: which points there are, what they are called, what is refused."""

import itertools
import random

import pytest
from omegaconf import OmegaConf

from asdgan.config import compose, traits
from asdgan.errors import BadInput, Damaged
from asdgan.results import ledger
from asdgan.sweep import building, grid, plan, prepare, sweep

TYPED = ("dataset=folder", "dataset.root=unused", "machine=fan")


def planned(*typed, done=(), failed=(), types=("fan",), slots=2, **about):
    asked = grid.expand([*TYPED, *typed])
    heard = {i: [plan.Heard(name, "data") for name in types] for i in range(len(asked.whole))}
    told = prepare.traits_of(asked)
    roots = dict.fromkeys(heard, "unused")
    return plan.make(
        asked, heard, roots, told, done=done, failed=failed, slots=slots, on_gpu=False, **about
    )


def names_of(made):
    """The points that the jobs will write, as often as they will."""
    return [name for job in made.jobs for name in job.wanted]


def alone(*typed):
    """The signature that a point has when it is composed and run alone."""
    config = compose.compose([*TYPED, *typed])
    told = traits.of(config.model._target_)
    return ledger.signature(compose.identity(config, "fan"), told.recipe, "data")


AXES = {
    "model": ("ganomaly", "skip_ganomaly"),
    "batch": ("16", "512"),
    "lr": ("1e-4", "0.001"),
    "dropout": ("0", "0.5"),
    "init": ("normal", "glorot_uniform"),
    "lambda_con": ("1", "50.0"),
    "model.init_std": ("0.02", "0.1"),
    "seed": ("0", "7"),
    "epochs": ("10", "30"),
}


def test_points_of_a_grid_are_the_points_that_each_is_alone():
    made = planned(*(f"{key}={','.join(values)}" for key, values in AXES.items()))
    assert len(made.points) == 2 ** len(AXES)
    assert sorted(names_of(made)) == sorted(made.points)  # each is some job's, and only one's
    every = list(itertools.product(*AXES.values()))
    for values in random.Random(0).sample(every, 12):
        typed = [f"{key}={value}" for key, value in zip(AXES, values, strict=True)]
        assert alone(*typed) in made.points


def test_a_job_names_its_points_in_the_order_of_its_lanes_and_readings():
    made = planned("lr=1e-3,1e-4", "seed=0,1", "epochs=20,10", "batch=16")
    (job,) = made.jobs
    assert job.stack.readings == (10, 20)
    for lane, names in zip(job.stack.lanes, job.signatures, strict=True):
        for epochs, name in zip(job.stack.readings, names, strict=True):
            assert name == alone(f"lr={lane['lr']}", f"seed={lane['seed']}", f"epochs={epochs}")


def test_an_axis_that_another_setting_is_read_off_is_composed_for_each_point():
    made = planned("lambda_con='${lambda_lat}'", "lambda_lat=1,50")
    assert made.points == {
        alone("lambda_con='${lambda_lat}'", f"lambda_lat={value}") for value in (1, 50)
    }
    assert [len(job.stack.lanes) for job in made.jobs] == [1, 1]


def test_equal_points_are_run_once():
    made = planned("lr=1e-4,0.0001,1.0e-04", "epochs=10,10")
    assert len(made.points) == len(names_of(made)) == 1


def test_what_is_done_is_not_run_again_and_the_rest_keeps_its_stacks():
    typed = ("lr=1e-3,1e-4", "dropout=0,0.5", "seed=range(0,8)", "epochs=10,20", "batch=512")
    first = planned(*typed)
    assert len(first.jobs) > 1
    done = {name for lane in first.jobs[0].signatures for name in lane}
    second = planned(*typed, done=done)
    assert second.done == done
    assert [job.stack.folder for job in second.jobs] == [j.stack.folder for j in first.jobs[1:]]
    assert sorted(names_of(second)) == sorted(first.points - done)
    assert planned(*typed, done=first.points).jobs == ()


def test_a_stack_whose_first_reading_is_done_is_trained_for_the_second_alone():
    first = planned("lr=1e-3,1e-4", "epochs=10,20")
    done = {lane[0] for lane in first.jobs[0].signatures}
    (job,) = planned("lr=1e-3,1e-4", "epochs=10,20", done=done).jobs
    assert job.stack.key == first.jobs[0].stack.key
    assert sorted(job.wanted) == sorted(first.points - done)


def test_what_failed_is_tried_again_or_not():
    points = planned("lr=1e-3,1e-4").points
    failed = {sorted(points)[0]}
    made = planned("lr=1e-3,1e-4", failed=failed)
    assert made.failed == failed
    assert set(names_of(made)) == points - failed


def test_lanes_are_spread_evenly_over_the_slots_eight_or_so_at_least():
    sizes = [len(job.stack.lanes) for job in planned("seed=range(0,40)", slots=4).jobs]
    assert sizes == [10] * 4
    sizes = [len(job.stack.lanes) for job in planned("seed=range(0,20)", slots=16).jobs]
    assert sizes == [7, 7, 6]
    sizes = [len(job.stack.lanes) for job in planned("seed=range(0,12)", slots=2).jobs]
    assert sizes == [6, 6]
    sizes = [len(job.stack.lanes) for job in planned("seed=range(0,5)", "sweep.lanes=2").jobs]
    assert sizes == [2, 2, 1]


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    typed = ["lr=1e-3,1e-4", "batch=16,512", "epochs=10,20", "init=normal,glorot_uniform"]
    made = planned(*typed, f"outputs={tmp_path}")
    path = plan.write(made, tmp_path / "a folder, with = signs")
    for number, job in enumerate(made.jobs):
        again = plan.job_of(*plan.told(plan.overrides_of(path, number)))
        assert again.stack.folder == job.stack.folder
        assert again.signatures == job.signatures
        assert again.skip == job.skip
        settled = [OmegaConf.to_container(j.stack.as_config(), resolve=True) for j in (job, again)]
        assert settled[0] == settled[1]
        lanes = range(len(job.stack.lanes))
        assert [again.stack.settings(i, 20) for i in lanes] == [
            job.stack.settings(i, 20) for i in lanes
        ]


def test_a_damaged_plan_is_refused(tmp_path):
    path = plan.write(planned("lr=1e-3,1e-4"), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"0.001", b"0.002"))
    with pytest.raises(Damaged):
        plan.read(path)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["epocs=1,2"], "epocs: no such setting; did you mean epochs"),
        (["lr=1e-3,fast"], "lr=fast: a number above 0 is expected"),
        (["lr=-1,2", "dropout=0.5,1"], "lr=-1: .*; dropout=1: "),
        (["batch=16,1"], "batch=1: a whole number of at least 2 is expected"),
        (["lr=1,2", "lr=3"], "lr is given twice"),
        (["lr=interval(1e-5,1e-2)"], r"needs a search \(sweep.search=tpe\), or list those to try"),
        (["seed=range(0,100000)", "lr=range(1,1000)"], "more than 2,000,000"),
        (["seed=range(0,1000000000000)"], "more than 2,000,000 values"),
        (["model=dcase_ae", "lambda_adv=1,2"], "dcase_ae has no such setting"),
        (["model=ganomaly,gandalf"], "model=gandalf: no such choice"),
        (["sweep=tabel3"], "sweep=tabel3: no such sweep"),
        (["sweep.file=tabel3"], "sweep=tabel3: no such sweep; did you mean table3"),
        (["sweep.retry=never,failed"], "sweep.retry takes one value"),
        (["sweep.lanes=0"], "sweep.lanes=0"),
        (["outputs=a,b"], "outputs takes one folder"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(typed, said):
    with pytest.raises(BadInput, match=said):
        drive_like(typed)


def drive_like(typed):
    prepare.outputs_of(sweep.expanded((*TYPED, *typed)))


def test_a_grid_nobody_can_run_is_refused_at_once():
    axes = [f"{axis}=range(0,10000)" for axis in ("seed", "lambda_adv", "lambda_con")]
    with pytest.raises(BadInput, match=r"1,000,000,000,000 points"):
        grid.expand([*TYPED, *axes])


# Sweep files ------------------------------------------------------------------------------------


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "SWEEPS", tmp_path)
    return tmp_path


def test_the_papers_grid_has_the_points_that_the_paper_says():
    asked = grid.expand(["sweep.file=table3", "model=ganomaly", "sweep.dry_run=true"])
    assert asked.points == 41_472
    assert sum(part.points for part in asked.parts) == 41_472
    assert len(asked.parts) == 36  # batch, latent and hidden layers have shapes of their own


def test_axes_of_a_block_multiply_blocks_add_up_and_what_is_typed_narrows_them(sweeps):
    (sweeps / "two.yaml").write_text(
        "about: two blocks\n"
        "blocks:\n"
        "  - [model=ganomaly, 'lr=1e-3,1e-4', 'seed=0,1']\n"
        "  - [model=skip_ganomaly, seed=5]\n"
    )
    assert grid.expand([*TYPED, "sweep.file=two"]).points == 4 + 1
    narrowed = grid.expand([*TYPED, "sweep.file=two", "seed=3", "batch=16,512"])
    assert narrowed.points == (2 + 1) * 2
    assert {part.config.seed for part in narrowed.parts} == {3}


def points_by_type(asked):
    """How many points each model has on each machine type."""
    found = {}
    for part in asked.parts:
        for name in [part.machine] if isinstance(part.machine, str) else part.machine:
            key = (part.config.detector, name)
            found[key] = found.get(key, 0) + part.points
    return found


THREE = (
    "blocks:\n"
    "  - [model=ganomaly, machine=fan, batch=16]\n"
    "  - [model=ganomaly, 'machine=pump,valve', batch=32]\n"
    "  - [model=dcase_ae, machine=all, batch=64]\n"
)


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["machine=fan"], {("ganomaly", "fan"): 1, ("dcase_ae", "fan"): 1}),
        (["machine=[valve,pump]"], {("ganomaly", "pump"): 1, ("ganomaly", "valve"): 1,
                                    ("dcase_ae", "valve"): 1, ("dcase_ae", "pump"): 1}),
        (["machine=lathe"], {("dcase_ae", "lathe"): 1}),
        (["machine=fan", "model=ganomaly"], {("ganomaly", "fan"): 1}),
        (["machine=all", "model=dcase_ae"], {("dcase_ae", "all"): 1}),
        (["model=egbad", "machine=fan"], {("egbad", "fan"): 2}),
    ],
)  # fmt: skip
def test_models_and_machine_types_that_a_file_has_are_narrowed(sweeps, typed, left):
    (sweeps / "three.yaml").write_text(THREE)
    asked = grid.expand([*TYPED[:2], "sweep.file=three", *typed])
    assert points_by_type(asked) == left


def test_a_machine_type_that_no_block_has_is_refused_beside_one_that_some_have(sweeps):
    (sweeps / "two.yaml").write_text(
        "blocks:\n  - [model=ganomaly, machine=fan]\n  - [model=egbad, machine=pump]\n"
    )
    with pytest.raises(BadInput, match=r"machine=lathe: sweep=two .* it has fan, pump"):
        grid.expand([*TYPED[:2], "sweep.file=two", "machine=fan,lathe"])


def test_a_file_has_the_blocks_of_the_sweeps_that_it_names_and_shares_settings(sweeps):
    (sweeps / "one.yaml").write_text("blocks: [[model=ganomaly, 'seed=0,1']]\n")
    (sweeps / "two.yaml").write_text(
        "published: [table7]\nsweeps: [one]\nshared: [model=egbad, 'batch=16,32']\n"
        "blocks: [[lr=1e-3], ['lr=1e-3,1e-4']]\n"
    )
    asked = grid.expand([*TYPED, "sweep.file=two"])
    assert points_by_type(asked) == {("ganomaly", "fan"): 2, ("egbad", "fan"): 2 + 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sweeps: [bad]\n", "bad.yaml: is one of its own sweeps"),
        ("sweeps: [worse]\n", "sweep=worse: no such sweep; there are bad"),
        ("sweeps: bad\n", "sweeps is not a list of words"),
        ("blocks: [[model=ganomaly]]\nblokcs: 1\n", "unknown key blokcs"),
        ("blocks:\n  - [model=ganomaly\n", "bad.yaml line"),
        ("about: nothing\n", "has `blocks`"),
        ("blocks: [{model: ganomaly}]\n", "block 1 is not a list of settings"),
        ("blocks: [[model=ganomaly], ['lr=1,2', 'lr=3']]\n", "block 2: lr is given twice"),
    ],
)
def test_a_sweep_file_that_is_none_is_refused_with_its_place(sweeps, text, said):
    (sweeps / "bad.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        grid.expand([*TYPED, "sweep.file=bad"])


# Models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (compose.CONF / "model").glob("*.yaml"))
)
def test_what_is_read_off_a_model_is_what_its_class_says(name):
    config = compose.compose([f"model={name}", *TYPED])
    told = traits.of(config.model._target_)
    found = type(compose.build(config))
    assert told == traits.Trait(found.recipe, found.stackable, found.prefix_stable)


def test_a_model_that_cannot_be_built_is_found_without_memory():
    good = compose.compose(["model=ganomaly", *TYPED])
    huge = compose.compose(["model=ganomaly", *TYPED, "model.hidden_width=10000000"])
    bad = compose.compose(["model=ganomaly", *TYPED])
    bad.model.pool = "median"
    assert building.unbuildable([good, huge, bad])[:2] == [None, None]
    assert "model.pool=median" in str(building.unbuildable([bad])[0])


# Ensembles --------------------------------------------------------------------------------------


def test_members_of_ensembles_are_points_of_the_plan_each_once():
    typed = ("model=gmade_ensemble", "model.weight=0.1,0.2,0.3", "seed=0,1")
    made = planned(*typed, types=("a", "b"))
    assert (len(made.points), len(made.ensembles)) == (4 + 4 + 12, 12)
    assert len(names_of(made)) == len(set(names_of(made))) == 8
    members = {name for one in made.ensembles for name in one.members.values()}
    assert members == set(names_of(made))
    done = members | {made.ensembles[0].ensemble.signature}
    again = planned(*typed, types=("a", "b"), done=done)
    assert (again.jobs, len(again.ensembles), again.done) == ((), 11, done)


def test_a_model_that_is_asked_for_and_a_member_is_trained_once_with_its_training_scores():
    typed = ("model=gmade,ganomaly,gmade_ensemble", "trainer.train_scores=false", "seed=0,1")
    made = planned(*typed)
    assert {name for one in made.ensembles for name in one.members.values()} <= made.points
    of = {job.stack.config.detector: job.stack.config.trainer.train_scores for job in made.jobs}
    assert of == {"gmade": True, "id_classifier": True, "ganomaly": False}
    assert alone("model=gmade", "seed=1") in made.points
    assert len(names_of(made)) == 6


def test_an_axis_of_a_members_settings_makes_members_of_its_own():
    axis = """model.members.gmade=["lr=0.001"],["lr=0.002"]"""
    made = planned("model=gmade_ensemble", axis)
    assert len({one.members["gmade"] for one in made.ensembles}) == 2
    assert len({one.members["id_classifier"] for one in made.ensembles}) == 1
    for one, lr in zip(made.ensembles, ("0.001", "0.002"), strict=True):
        assert one.ensemble.settings["gmade.lr"] == float(lr)
        assert one.members["gmade"] == alone("model=gmade", f"lr={lr}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["model.weight=0.5,2"], "model.weight=2: a number from 0 to 1"),
        (["""model.members.gmade=["epochs=1"],["epoch=1"]"""], "gmade: epoch: no such setting"),
        (["model.primary=combined,nll"], "model.primary=nll is none of the scores combined, gm"),
        (["epochs=1,2"], r"epochs=1: gmade_ensemble has no such setting \(its members may"),
        (["sweep.search=tpe", "model.weight=0.1,0.2"], "list the values to try, or search over a"),
        (["model=gmade_ensemble,ganomaly", "lr=1e-3"], "gmade_ensemble has no such setting"),
    ],
)
def test_what_is_wrong_with_ensembles_is_refused_before_anything_starts(typed, said):
    own = [] if typed[0].startswith("model=") else ["model=gmade_ensemble"]
    with pytest.raises(BadInput, match=said):
        grid.expand([*TYPED, *own, *typed])


def test_an_ensemble_whose_member_cannot_be_built_is_left_out_with_it(monkeypatch):
    def unbuildable(configs):
        return ["planted" if one.windows.stride == 3 else None for one in configs]

    monkeypatch.setattr(building, "unbuildable", unbuildable)
    monkeypatch.setattr(prepare, "_tried", {})
    axis = """model.members.gmade=["windows.stride=3"],["windows.stride=4"]"""
    made = planned("model=gmade_ensemble", axis)
    with pytest.raises(BadInput, match=r"gmade batch=.*: planted; leave it out"):
        prepare.buildable(made, skip=False)
    (left,) = prepare.buildable(made, skip=True).ensembles
    assert left.ensemble.settings["gmade.windows.stride"] == 4
