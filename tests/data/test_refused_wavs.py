"""Every broken wav of the reliability study is refused with its whole sentence."""

import os

import pytest
from broken_wavs import CASES, read
from wav_bytes import RATE

from asdgan.data.wav import wav_length
from asdgan.errors import BadInput


def test_the_table_has_all_35():
    assert {name.split()[0] for name in CASES} == {f"A{number}" for number in range(1, 36)}


@pytest.mark.parametrize("name", CASES)
def test_each_bad_file_gets_its_whole_sentence(tmp_path, name):
    case, path = CASES[name], tmp_path / "lathe" / "train" / "clip.wav"
    path.parent.mkdir(parents=True)
    case.put(path)
    try:
        said = case.ask(path)
    except BadInput as error:
        said = str(error)
    owner = path.owner() if os.path.exists(path) else ""
    assert said == case.says.format(path=path, owner=owner)


IN_THE_HEADER = [
    name
    for name, case in CASES.items()
    if case.ask is read and case.says.startswith("{path}") and not name.startswith("A23")
]


@pytest.mark.parametrize("name", IN_THE_HEADER)
def test_the_header_alone_is_refused_with_the_same_sentence(tmp_path, name):
    case, path = CASES[name], tmp_path / "clip.wav"
    case.put(path)
    with pytest.raises(BadInput) as refusal:
        wav_length(path, sample_rate=RATE, resample=False)
    assert str(refusal.value) == case.says.format(path=path)
