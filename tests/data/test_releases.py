"""Names of every release, and the organisers' lists of what evaluation names keep back."""

import csv
import logging

import pytest
from small_plant import make

from asdgan.data import labels
from asdgan.data.clips import Choice, clip_table, fingerprint, machine_types
from asdgan.data.releases import GRAMMARS
from asdgan.errors import BadInput

EVAL = Choice(subset="eval")


NAMES = [
    ("dcase2020", "train/normal_id_01_00000000.wav", ("01", "normal", None, ())),
    ("dcase2020", "test/id_01_00000000.wav", ("01", None, None, ())),
    (
        "dcase2021",
        "train/section_00_source_train_normal_0000_strength_1_ambient.wav",
        ("00", "normal", "source", (("attributes", "strength_1_ambient"),)),
    ),
    (
        "dcase2021",
        "train/section_02_target_train_normal_0002_0_g_25_mm_2000_mV_none.wav",
        ("02", "normal", "target", (("attributes", "0_g_25_mm_2000_mV_none"),)),
    ),
    (
        "dcase2021",
        "source_test/section_00_source_test_anomaly_0007.wav",
        ("00", "anomaly", "source", ()),
    ),
    ("dcase2021", "target_test/section_03_target_test_0007.wav", ("03", None, "target", ())),
    (
        "dcase2022",
        "test/section_00_target_test_anomaly_0000_vel_6_loc_A.wav",
        ("00", "anomaly", "target", (("vel", "6"), ("loc", "A"))),
    ),
    (
        "dcase2022",
        "train/section_01_source_train_normal_0999_n-lv_0.5_f-n_A-B.wav",
        ("01", "normal", "source", (("n-lv", "0.5"), ("f-n", "A-B"))),
    ),
    ("dcase2022", "test/section_03_0000.wav", ("03", None, None, ())),
    ("dcase2022", "test/section_03_test_0000.wav", ("03", None, None, ())),
    (
        "dcase2023",
        "test/section_00_source_test_normal_0000_pat_00.wav",
        ("00", "normal", "source", (("pat", "00"),)),
    ),
    (
        "dcase2024",
        "train/section_00_source_train_normal_0000_noAttribute.wav",
        ("00", "normal", "source", ()),
    ),
    (
        "dcase2025",
        "train/section_00_source_train_normal_0000_clean.wav",
        ("00", "normal", "source", (("attributes", "clean"),)),
    ),
    ("mimii", "id_02/abnormal/00000003.wav", ("02", "anomaly", None, ())),
    (
        "toyadmos",
        "case1/AnomalousSound_IND/1101010001_ToyCar_case1_ab01_IND_ch1_0001.wav",
        ("1", "anomaly", None, ()),
    ),
]


@pytest.mark.parametrize(("release", "path", "said"), NAMES, ids=lambda v: str(v)[:40])
def test_a_name_says_section_label_domain_and_attributes(release, path, said):
    reading = GRAMMARS[release].read(path)
    assert reading is not None
    assert reading[:4] == said


FOREIGN = [
    ("dcase2020", "test/section_00_source_test_normal_0000.wav"),
    ("dcase2021", "source_test/section_00_target_test_normal_0000.wav"),
    ("dcase2021", "test/section_00_source_test_normal_0000.wav"),
    ("dcase2022", "train/section_00_source_test_normal_0000_vel_6.wav"),
    ("dcase2022", "train/section_03_0000.wav"),
    ("dcase2022", "test/section_3_0000.wav"),
    ("dcase2023", "test/section_00_source_test_normal_00000_pat_00.wav"),
    ("mimii", "id_02/abnormal/normal_3.wav"),
    ("toyadmos", "case1/NormalSound_IND/1101010001_ToyCar_case1_ab01_IND_ch1_0001.wav"),
    ("toyadmos", "case1/NormalSound_IND/1101010001_ToyCar_case2_normal_IND_ch1_0001.wav"),
]


@pytest.mark.parametrize(("release", "path"), FOREIGN)
def test_a_name_of_another_form_is_not_guessed_at(release, path):
    assert GRAMMARS[release].read(path) is None


def test_every_release_has_its_config_and_its_subsets_are_taken(repository):
    from asdgan.config import compose
    from asdgan.training import machine_data

    for release, grammar in GRAMMARS.items():
        config = compose.compose(["model=dcase_ae", f"dataset={release}", "dataset.root=x"])
        assert config.dataset.release == release
        assert (machine_data.choice_of(config).subset or "dev") in (grammar.homes or {"dev"})
    assert {path.stem for path in (repository / "conf" / "dataset").glob("*.yaml")} == set(
        GRAMMARS
    )


PLANT_2022 = (
    "dev_data/fan/train/section_00_source_train_normal_0000_m-n_W.wav",
    "dev_data/fan/test/section_00_target_test_anomaly_0000_m-n_X.wav",
    "eval_data/fan/train/section_03_source_train_normal_0000_m-n_W.wav",
    "eval_data/fan/test/section_03_0000.wav",
    "eval_data/fan/test/section_03_test_0001.wav",
)


@pytest.fixture
def challenge(tmp_path):
    return make(tmp_path / "2022", *PLANT_2022)


def lists(root, **files):
    """Label lists of section 03 of fan: a folder a keyword, its rows below it."""
    for kind, rows in files.items():
        path = root / kind / "ground_truth_fan_section_03_test.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)
    return root


def names(table):
    return [clip.name for clip in table]


def test_dev_is_the_usual_subset_and_eval_the_other(challenge):
    test, train = clip_table(challenge, "dcase2022", "fan")
    assert (test.section, test.domain, test.label, test.subset) == (
        "00",
        "target",
        "anomaly",
        "dev",
    )
    assert (train.attributes, train.domain) == ((("m-n", "W"),), "source")
    *tests, train = clip_table(challenge, "dcase2022", "fan", EVAL)
    assert {(clip.section, clip.label, clip.subset) for clip in tests} == {
        ("03", "unknown", "eval")
    }
    assert train.section == "03"


def test_additional_training_clips_are_added_when_both_are_asked_for(challenge):
    table = clip_table(challenge, "dcase2022", "fan", Choice(train="both"))
    assert [(clip.split, clip.subset) for clip in table] == [
        ("test", "dev"), ("train", "dev"), ("train", "eval"),
    ]  # fmt: skip


def test_both_trains_on_dev_where_eval_has_test_clips_only(challenge):
    (challenge / "eval_data/fan/train/section_03_source_train_normal_0000_m-n_W.wav").unlink()
    with pytest.raises(BadInput, match="fan: no wav in"):
        clip_table(challenge, "dcase2022", "fan", EVAL)
    table = clip_table(challenge, "dcase2022", "fan", Choice(subset="eval", train="both"))
    assert [clip.subset for clip in table] == ["eval", "eval", "dev"]


def test_a_subset_that_a_release_does_not_have_is_refused(challenge):
    with pytest.raises(BadInput, match=r"dcase2022 has no subset 'evil'; it has dev, eval; did"):
        machine_types(challenge, "dcase2022", Choice(subset="evil"))


def test_an_absent_subset_is_answered_with_the_command_that_fetches_it(tmp_path):
    root = make(tmp_path, *PLANT_2022[:2])
    with pytest.raises(BadInput, match=r"asdgan data fetch dcase2022 --subset=eval --root"):
        machine_types(root, "dcase2022", EVAL)
    with pytest.raises(BadInput, match=r"asdgan data fetch dcase2021 --root .*/gone"):
        machine_types(tmp_path / "gone", "dcase2021")


def test_the_folder_of_another_subset_is_not_taken_for_the_one_asked_for(challenge):
    sentence = r"there is subset eval; choose that, unpack the release to .*fetch dcase2022 --root"
    with pytest.raises(BadInput, match=sentence):
        machine_types(challenge / "eval_data", "dcase2022")
    assert machine_types(challenge / "eval_data", "dcase2022", EVAL) == ("fan",)


def test_labels_and_domains_come_from_the_lists_in_both_forms_of_names(challenge, tmp_path):
    place = lists(
        tmp_path / "truth",
        ground_truth_data="\ufeffsection_03_0000.wav,1\r\nsection_03_0001.wav,0\r\n",
        ground_truth_domain="section_03_0000.wav,0\nsection_03_0001.wav,1\n",
    )
    first, second, _ = clip_table(
        challenge, "dcase2022", "fan", Choice(subset="eval", truth=place)
    )
    assert (first.label, first.domain, first.listed) == ("anomaly", "source", True)
    assert (second.label, second.domain, second.listed) == ("normal", "target", True)


def test_labels_from_a_list_are_part_of_the_data_but_not_of_what_is_heard(challenge, tmp_path):
    rows = "section_03_0000.wav,1\nsection_03_0001.wav,0\n"
    one, other = (
        lists(tmp_path / name, ground_truth_data=text)
        for name, text in (("a", rows), ("b", rows.replace(",1", ",0", 1)))
    )
    plain, *told = (
        clip_table(challenge, "dcase2022", "fan", Choice(subset="eval", truth=place))
        for place in (None, one, other)
    )
    assert len({fingerprint(table, None) for table in (plain, *told)}) == 3
    assert len({fingerprint(table, None, judged=False) for table in (plain, *told)}) == 1


LISTS = [
    ("section_03_0000.wav,1\n", "1 test clips have no label .* 'fan/test/section_03_test_0001"),
    ("section_03_0000.wav,2\n", r"row 1: '2' is neither 0 \(normal\) nor 1"),
    ("\nsection_03_0000.wav;1\n", "row 2: 'section_03_0000.wav;1' is not a clip's name and a"),
    ("section_03_0000.wav,1\nsection_03_test_0000.wav,0\n", "row 2: .* stood there before"),
]


@pytest.mark.parametrize(("rows", "sentence"), LISTS)
def test_a_list_that_does_not_fit_is_refused_with_its_row(challenge, tmp_path, rows, sentence):
    place = lists(tmp_path / "truth", ground_truth_data=rows)
    with pytest.raises(BadInput, match=sentence):
        clip_table(challenge, "dcase2022", "fan", Choice(subset="eval", truth=place))


def test_a_list_of_other_machine_types_is_refused_with_those_it_has(challenge, tmp_path):
    (tmp_path / "eval_data_list.csv").write_text(
        "pump,,\nid_01_00000000.wav,normal_id_01_00000009.wav,0\n"
    )
    place = tmp_path / "eval_data_list.csv"
    with pytest.raises(BadInput, match="no labels for machine type fan; it has those of pump"):
        clip_table(challenge, "dcase2022", "fan", Choice(subset="eval", truth=place))


def test_listed_clips_that_are_not_there_are_a_warning(challenge, tmp_path, caplog):
    rows = "".join(f"section_03_{number:04}.wav,1\n" for number in range(4))
    place = lists(tmp_path / "truth", ground_truth_data=rows)
    with caplog.at_level(logging.WARNING):
        clip_table(challenge, "dcase2022", "fan", Choice(subset="eval", truth=place))
    assert caplog.messages == [
        "fan: 2 clips of the label list are not there, section_03_0002.wav first"
    ]


def test_a_name_that_contradicts_its_list_is_refused(challenge, tmp_path):
    place = tmp_path / "ground_truth_data"
    place.mkdir()
    row = "section_00_target_test_anomaly_0000_m-n_X.wav,0\n"
    (place / "ground_truth_fan_section_00_test.csv").write_text(row)
    with pytest.raises(BadInput, match="is called anomaly, but normal in the label list"):
        clip_table(challenge, "dcase2022", "fan", Choice(truth=place))


def test_renamed_toy_clips_of_2022_are_refused_because_their_list_is_wrong(tmp_path):
    root = make(
        tmp_path,
        "eval_data/ToyCar/train/section_03_source_train_normal_0000_car_A1.wav",
        "eval_data/ToyCar/test/section_03_source_test_normal_0000_car_A1.wav",
    )
    with pytest.raises(BadInput, match="known to be wrong for about half of them"):
        clip_table(root, "dcase2022", "ToyCar", EVAL)


def test_mimii_holds_out_as_many_normal_clips_as_there_are_anomalies(tmp_path):
    for number in range(6):
        make(tmp_path / "0_dB" / "fan", f"id_00/normal/{number:08}.wav")
    make(tmp_path / "0_dB" / "fan", "id_00/abnormal/00000000.wav", "id_00/abnormal/00000001.wav")
    table = clip_table(tmp_path, "mimii", "fan", Choice(channel=3))
    assert [(clip.label, clip.split) for clip in table[:4]] == [
        *[("anomaly", "test")] * 2,
        *[("normal", "test")] * 2,
    ]
    assert names(table)[2:4] == ["fan/id_00/normal/00000000.wav", "fan/id_00/normal/00000001.wav"]
    assert {clip.channel for clip in table} == {3}
    first = clip_table(tmp_path, "mimii", "fan")
    assert fingerprint(first, None) != fingerprint(table, None)


def test_mimii_keeps_half_of_the_normal_clips_for_training(tmp_path):
    normal = [f"id_00/{kind}/{n:08}.wav" for kind in ("normal", "abnormal") for n in range(5)]
    make(tmp_path / "min6dB" / "fan", *normal)
    table = clip_table(tmp_path, "mimii", "fan", Choice(subset="-6_dB"))
    assert sum(clip.split == "train" for clip in table) == 3


def test_toyadmos_takes_one_microphone_and_passes_over_what_is_no_clip(tmp_path):
    for channel in range(1, 5):
        make(
            tmp_path / "ToyCar",
            f"case1/NormalSound_IND/1100010001_ToyCar_case1_normal_IND_ch{channel}_0001.wav",
            f"case2/NormalSound_IND/1100010001_ToyCar_case2_normal_IND_ch{channel}_0001.wav",
            f"case1/AnomalousSound_IND/1101010001_ToyCar_case1_ab01_IND_ch{channel}_0001.wav",
            f"case1/NormalSound_CNT/1100110001_ToyCar_case1_normal_CNT_ch{channel}_0001.wav",
            f"EnvironmentalNoise_CNT/1_ToyCar_N01_ch{channel}_0001.wav",
        )
    table = clip_table(tmp_path, "toyadmos", "ToyCar", Choice(channel=4))
    assert [(clip.section, clip.label, "_ch4_" in clip.name) for clip in table] == [
        ("1", "anomaly", True), ("1", "normal", True), ("2", "normal", True),
    ]  # fmt: skip
    with pytest.raises(BadInput, match="channel 5: release toyadmos has 1 to 4"):
        clip_table(tmp_path, "toyadmos", "ToyCar", Choice(channel=5))


def test_the_lists_of_2022_differ_where_they_are_known_to(shared):
    found = labels.lists(shared / "evaluator_cases" / "2022")
    assert labels.disagreements(found) == [
        f"{name}: eval_data_list_2022.csv differs from {other} of {count} of 600 clips"
        for other, counts in (
            ("ground_truth_data in the label", (296, 312)),
            ("ground_truth_domain in the domain", (292, 300)),
        )
        for name, count in zip(("ToyCar", "ToyTrain"), counts, strict=True)
    ]


@pytest.mark.parametrize("year", ["2021", "2023", "2024"])
def test_the_lists_of_the_other_years_agree(shared, year):
    assert labels.disagreements(labels.lists(shared / "evaluator_cases" / year)) == []


def test_the_wrong_list_of_2022_is_refused_for_toys_and_taken_for_the_others(shared):
    place = shared / "evaluator_cases" / "2022" / "eval_data_list_2022.csv"
    assert len(labels.of_type(place, "fan", only_evaluators=False)) == 600
    with pytest.raises(BadInput, match="known to be wrong for ToyCar"):
        labels.of_type(place, "ToyCar", only_evaluators=True)


@pytest.mark.parametrize(
    ("year", "place"),
    [
        ("2020", "ground_truth/eval_data_list.csv"),
        ("2021", "ground_truth_eval_sections_03_05"),
        ("2022", "."),
        ("2023", "."),
        ("2024", "."),
        ("2025", "eval_data_list_2025.csv"),
    ],
)
def test_every_evaluation_clip_of_the_organisers_parses_and_gets_its_label(
    shared, tmp_path, year, place
):
    place = shared / "evaluator_cases" / year / place
    found = labels.lists(place)
    listing = next((one for one in found if one.path.name == "ground_truth_data"), found[0])
    for machine_type, said in listing.says.items():
        for name in said:
            folder = f"{name.split('_')[2]}_test" if year == "2021" else "test"
            make(tmp_path, f"eval_data/{machine_type}/{folder}/{name}")
        first = (
            "normal_id_01_00000000" if year == "2020" else "section_00_source_train_normal_0000"
        )
        make(tmp_path, f"eval_data/{machine_type}/train/{first}.wav")
    choice = Choice(subset="eval", truth=place)
    for machine_type in machine_types(tmp_path, f"dcase{year}", choice):
        table = clip_table(tmp_path, f"dcase{year}", machine_type, choice)
        tests = [clip for clip in table if clip.split == "test"]
        assert {clip.label for clip in tests} == {"normal", "anomaly"}
        assert {clip.domain for clip in tests} == (
            {None} if year == "2020" else {"source", "target"}
        )


def test_the_genuine_names_of_2023_parse(shared):
    with (shared / "data" / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "dcase2023_valve"]
    for row in rows:
        said = GRAMMARS["dcase2023"].read("test/" + row["note"].split()[2].rstrip(";"))
        assert said is not None
        assert (said.label, said.domain, said.attributes[0][0]) == (row["label"], "source", "pat")
