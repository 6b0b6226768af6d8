"""Readers of published regression data, on tiny files of the same layout."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mu_vision.data.cards import load_card
from mu_vision.data.regression import DATASETS, load_splits
from mu_vision.errors import UsageError


def picture(path, shade=120):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 48), (shade, shade, shade)).save(path)


def test_the_diabetes_table_is_split_once():
    splits = load_splits("diabetes")
    assert splits.train.x.shape == (310, 10) and len(splits.test) == 132
    assert splits.train.deviation == "squared" and set(splits.train.subjects.tolist()) == {
        0,
        1,
        2,
        3,
    }
    assert load_splits("diabetes").train.fingerprint == splits.train.fingerprint
    rows = torch.cat([splits.train.x, splits.test.x])
    assert len(torch.unique(rows, dim=0)) == 442


def test_agedb_is_read_from_the_names_of_its_pictures(tmp_path):
    for number in range(60):
        name = "MariaCallas" if number % 2 else "Jean_Gabin"
        picture(tmp_path / f"{number}_{name}_{20 + number % 40}_f.jpg", shade=number)
    splits = load_splits("agedb", tmp_path)
    assert len(splits.train) + len(splits.test) == 60 and 0 < len(splits.test) < 20
    assert set(splits.train.names) == {"Jean_Gabin", "MariaCallas"}
    assert splits.train.x.shape[1:] == (3, 32, 32) and splits.augment
    assert 0 <= float(splits.train.x.min()) and float(splits.train.x.max()) <= 1
    # whose picture, at what age, and which picture belong together
    shade = (splits.train.x.mean((1, 2, 3)) * 255).round()
    assert torch.equal(splits.train.y, 20 + shade % 40)
    assert torch.equal(splits.train.subjects, shade.long() % 2)  # names in alphabetical order
    assert splits.test.names == splits.train.names


def test_a_table_decides_which_pictures_are_used_and_how(tmp_path):
    rows = []
    for number in range(6):
        path = f"pictures/{number}_Somebody_{30 + number}_m.jpg"
        picture(tmp_path / path)
        rows.append((path, 30 + number if number else 150, "test" if number > 3 else "train"))
    pd.DataFrame(rows, columns=["path", "age", "split"]).to_csv(tmp_path / "agedb.csv")
    splits = load_splits("agedb", tmp_path)
    assert splits.train.y.tolist() == [31, 32, 33] and splits.test.y.tolist() == [34, 35]
    assert splits.name == "agedb without 1 of no plausible age"
    pd.DataFrame(rows, columns=["path", "years", "split"]).to_csv(tmp_path / "agedb.csv")
    with pytest.raises(
        UsageError, match=r"agedb.csv lacks the column age; it needs path, age, split"
    ):
        load_splits("agedb", tmp_path)


def test_imdb_wiki_tells_the_age_from_birth_and_year(tmp_path):
    for number in range(40):
        picture(tmp_path / "01" / f"nm000000{number % 3}_rm{number}_1899-5-10_{1930 + number}.jpg")
        picture(tmp_path / "00" / f"{number % 4}3300_1962-06-19_{1980 + number}.jpg")
    splits = load_splits("imdb_wiki", tmp_path)
    assert len(splits.train) + len(splits.test) == 80
    assert min(splits.train.y.tolist()) >= 18 and "nm0000001" in splits.train.names


@pytest.mark.parametrize("name", ["agedb", "imdb_wiki"])
def test_a_picture_whose_name_says_nothing_is_named(name, tmp_path):
    picture(tmp_path / "holiday.jpg")
    with pytest.raises(UsageError, match=r"holiday.jpg does not say whom it shows and at what age"):
        load_splits(name, tmp_path)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "1_Somebody_30_f.jpg").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"1_Somebody_30_f.jpg cannot be read"):
        load_splits("agedb", tmp_path)


def pairs(folder):
    lines = {
        "train": [
            "main-news\theadlines\t2015\t1\t4.500\tThe cat sits there\tA CAT sits",
            'main-forums\tforum\t2014\t2\t0.000\tzebra "cat\tdog dog dog dog dog dog dog dog dog dog dog',
        ],
        "dev": ["main-news\theadlines\t2015\t1\t2.000\tdog\tthe"],
    }
    for part, rows in lines.items():
        (folder / f"sts-{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "glove.840B.300d.txt").write_text("cat 1 0 0\nsits 0 1 0\ndog 0 0 1\n. 9 9 9\n")


def test_pairs_of_sentences_are_ten_vectors_each(tmp_path):
    pairs(tmp_path)
    splits = load_splits("stsb", tmp_path)
    x = splits.train.x
    assert x.shape == (2, 3, 2, 10) and splits.train.y.tolist() == [4.5, 0.0]
    assert (
        splits.train.names == ("main-forums", "main-news") and splits.train.deviation == "squared"
    )
    # "The", "A" and "there" are stop words; padding is on the left
    assert (
        x[0, :, 0].T[-2:].tolist() == [[1, 0, 0], [0, 1, 0]]
        and float(x[0, :, 0, :8].abs().sum()) == 0
    )
    assert torch.equal(x[0, :, 0], x[0, :, 1])
    # zebra has no vector: the mean of the sentence's known words
    assert x[1, :, 0].T[-2:].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert torch.equal(x[1, :, 1], torch.tensor([0.0, 0, 1])[:, None].expand(3, 10))
    assert float(splits.test.x[0, :, 1].abs().sum()) == 0  # nothing but stop words


def test_a_broken_line_of_pairs_is_named(tmp_path):
    pairs(tmp_path)
    with open(tmp_path / "sts-dev.csv", "a", encoding="utf-8") as file:
        file.write("main-news\tno score\n")
    with pytest.raises(UsageError, match=r"Line 2 of .*sts-dev.csv is not genre, file, year"):
        load_splits("stsb", tmp_path)


def test_the_paper_network_reads_pairs(tmp_path):
    from mu_vision.models.regressor import Regressor

    pairs(tmp_path)
    splits = load_splits("stsb", tmp_path)
    model = Regressor.build("pair_lstm", 3)
    assert model.predict(splits.train.x).shape == (2,)
    layers = model.blocks()
    with model.listening(layers) as heard:
        model.network(splits.train.x)
    assert [tuple(heard[name].shape) for name in layers] == [(2, 20, 64), (2, 64), (2, 32), (2, 16)]
    loaded = Regressor.load(model.save(tmp_path / "model"))
    assert loaded.fingerprint() == model.fingerprint()


def test_electricity_gives_a_customers_next_day(tmp_path):
    hours = pd.date_range("2014-01-01", "2014-09-08 23:00", freq="1h")
    wave = np.sin(np.arange(len(hours)) / 24 * 2 * np.pi) + 2
    early = np.where(np.arange(len(hours)) < 24 * 100, 0.0, 3 * wave)
    table = pd.DataFrame({"MT_001": wave, "MT_002": early, "MT_003": 0.0}, index=hours)
    table.to_csv(tmp_path / "LD2011_2014.txt", sep=";", decimal=",")
    splits = load_splits("electricity", tmp_path)
    assert splits.train.x.shape[1] == 168 and splits.train.names == ("MT_001", "MT_002")
    days = 1315 - 1096 - 7
    assert torch.bincount(splits.train.subjects).tolist() == [days, days - 100]
    assert torch.bincount(splits.test.subjects).tolist() == [7, 7]
    # a pure daily wave: every day's mean is the same, 0 once standardised
    assert splits.train.y.abs().max() < 1e-4
    assert float(splits.train.x[0].std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("gauges", "diabetes")])
def test_missing_files_are_told_with_what_to_fetch(name, tmp_path):
    card = load_card(name)
    with pytest.raises(
        UsageError, match=f"{card.title} cannot be read from .*missing.*{card.fetch[:20]}"
    ):
        load_splits(name, tmp_path / "missing")


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_a_card(name):
    assert load_card(name).kind == ("rendered" if name == "gauges" else "measured")


def test_unknown_data_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"There is no data set 'agedbb'\. Did you mean 'agedb'"):
        load_splits("agedbb")
