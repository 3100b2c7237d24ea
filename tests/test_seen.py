"""What a run has seen: images are found again whatever shape joined data bring them to, and doubt is told as doubt."""

import json

import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import seen
from fer_jax.data import combine, prepare
from tests import miniatures
from tests.faces import write_fer2013

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def raw(tmp_path):
    write_fer2013(tmp_path / "raw/fer2013", train=14, validation=7, test=7)
    miniatures.write_jaffe(tmp_path / "raw/jaffe")
    return tmp_path / "raw"


def finished(folder, dataset, data):
    """The run directory, config and results of a run on a data set that the fields `data` give."""
    config = config_lib.completed({"data": data})
    selected_on = "validation" if "validation" in dataset.splits else None
    results = {"fingerprint": dataset.fingerprint, "selected_on": selected_on, "synthetic": dataset.synthetic}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results))
    return folder, config, results


def joined(raw, **roles):
    data = {"name": "joined"} | {role: [{"name": name} for name in names] for role, names in roles.items()}
    return combine.load(config_lib.completed({"data": data})["data"], raw), data


def told(run, dataset, split):
    """(how many images are copies, why an ensemble with the run is optimistic, why it is a doubtful teacher)."""
    folder, config, results = run
    digests = dataset.digests(split)
    copies = seen.copies(digests, config, results, dataset, split, transfer=True)
    reason = seen.optimistic_because(folder, digests, dataset, split, None)
    return None if copies is None else copies.sum(), reason, list(seen.doubts(str(folder), dataset))


def test_images_are_found_again_in_joined_data_of_another_shape(raw, tmp_path):
    fer2013 = prepare.load("fer2013", data_dir=raw / "fer2013")
    both, data = joined(raw, train=["fer2013"], validation=["jaffe"])
    assert both.image_shape != fer2013.image_shape
    copies, reason, doubts = told(finished(tmp_path / "joined", both, data), fer2013, "test")
    assert copies == 7
    assert reason == f"{tmp_path / 'joined'} was trained or selected on 7 of these images"
    assert doubts == [
        f"{tmp_path / 'joined'} was trained on 7 of the 7 images of {split}" for split in ("validation", "test")
    ]
    alone = finished(tmp_path / "alone", fer2013, {"name": "fer2013"})
    other, _ = joined(raw, train=["jaffe"], validation=["fer2013"])
    copies, reason, _ = told(alone, other, "validation")
    assert copies == 14 + 7  # trained and selected, not the test split
    assert reason == f"{tmp_path / 'alone'} was trained or selected on 21 of these images"
    assert told(alone, other, "train")[:2] == (0, None)


def test_drawn_faces_are_no_photographs_but_joined_data_may_have_both(raw, tmp_path):
    fer2013 = prepare.load("fer2013", data_dir=raw / "fer2013")
    data = {"name": "synthetic", "variant": "small"}
    drawn = finished(tmp_path / "drawn", combine.load(config_lib.completed({"data": data})["data"]), data)
    assert told(drawn, fer2013, "test") == (0, None, [])
    data = {"name": "joined", "train": [{"name": "fer2013"}, {"name": "synthetic", "variant": "small"}]}
    both = combine.load(config_lib.completed({"data": data})["data"], raw)
    assert told(finished(tmp_path / "both", both, data), fer2013, "test")[0] == 7


def test_of_two_data_sets_of_one_name_that_of_the_run_is_taken(raw, tmp_path):
    write_fer2013(tmp_path / "other", train=14, validation=7, test=7, seed=1)
    one, other = (prepare.load("fer2013", data_dir=folder) for folder in (raw / "fer2013", tmp_path / "other"))
    assert one.fingerprint != other.fingerprint
    for limit in (0, 7):
        data = {"name": "fer2013", "limit": limit}
        whole = combine.load(config_lib.completed({"data": data})["data"], raw / "fer2013")
        run = finished(tmp_path / f"limit {limit}", whole, data)
        assert told(run, one, "train")[0] == (limit or 14)
        assert told(run, other, "train") == (0, None, [])
    folder, config, results = run
    unknown = (folder, config, results | {"fingerprint": "of neither"})
    (folder / "results.json").write_text(json.dumps(unknown[2]))
    assert told(unknown, one, "train") == (
        None,
        f"whether {folder} was trained on these images is not known, its data are not at hand",
        [f"whether {folder} was trained on held-out images is not known, its data are not at hand"],
    )


def test_what_a_list_leaves_out_was_not_seen_and_without_the_list_nothing_is_known(raw, tmp_path):
    dataset = prepare.load("fer2013", data_dir=raw / "fer2013")
    clean = tmp_path / "clean.json"
    exclude = {"train": [0, 3], "validation": [], "test": []}
    clean.write_text(json.dumps({"dataset": "fer2013", "fingerprint": dataset.fingerprint, "exclude": exclude}))
    without = dataset.without({"train": np.array([0, 3])})
    _, config, results = finished(tmp_path / "run", without, {"name": "fer2013", "exclude": str(clean)})
    ask = (dataset.digests("train"), config, results, dataset, "test")
    for transfer in (False, True):
        found = seen.copies(*ask, transfer=transfer)
        assert np.flatnonzero(~found).tolist() == [0, 3]
    clean.unlink()
    for transfer in (False, True):
        assert seen.copies(*ask, transfer=transfer) is None
