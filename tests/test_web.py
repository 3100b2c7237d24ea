"""The page without a browser: answers are the network's, nothing stays on the disk, no other file is served."""

import base64
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from fer_jax import checkpoint, explain, heads, models, web, web_analysis, web_html, web_server, web_uploads
from fer_jax.data import normalization
from fer_jax.data.datasets.base import square
from fer_jax.data.detect import Face
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError
from fer_jax.imaging import to_input
from fer_jax.recognizer import Prediction, Recognizer
from tests.test_web_uploads import write_image, write_video

pytestmark = pytest.mark.filterwarnings("default")  # Gradio leaves sockets and event loops open

MODEL = {"name": "shallow", "options": {"filters": [4, 4], "hidden": [8]}, "dtype": "float32"}
SHAPE = (48, 48, 1)


def small_variables() -> dict:
    """Of a small network, its weights large enough that faces differ in their answers."""
    model = models.create("shallow", num_outputs=7, filters=(4, 4), hidden=(8,))
    made = model.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)
    large = jax.tree.map(lambda value: np.asarray(value) * 6, made["params"])
    normalizer = {"mean": np.full(1, 127.5, np.float32), "scale": np.full(1, 1 / 127.5, np.float32)}
    return jax.device_get({**made, "params": large, "normalizer": normalizer})


@pytest.fixture(scope="module")
def variables():
    return small_variables()


@pytest.fixture(scope="module")
def network(variables):
    model = models.create("shallow", num_outputs=7, filters=(4, 4), hidden=(8,))
    return Recognizer(model, heads.make_head("classification", BASIC7), variables, BASIC7, SHAPE, "fer2013")


@pytest.fixture(scope="module")
def networks(network):
    """That network under two names, with a detector of bright squares."""
    return web_analysis.Networks({"one": network, "two": network}, lambda: bright_squares, align="box")


@pytest.fixture
def folder(tmp_path_factory):
    """The private folder, as the server has it."""
    tmp_path_factory.getbasetemp()  # not within it
    with web_server.private_folder() as path:
        yield path


def bright_squares(image: np.ndarray) -> list[Face]:
    mask = (image.min(-1) > 60).astype(np.uint8)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
    return [Face(tuple(map(float, box[:4]))) for box in boxes[1:] if box[4] > 300]


def scene(*places: tuple[int, int], side: int = 64, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A black picture with a bright coarse pattern at each (x, y)."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (x, y) in enumerate(places):
        coarse = np.random.default_rng(number).integers(110, 256, (4, 4, 3), dtype=np.uint8)
        image[y : y + side, x : x + side] = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_NEAREST)
    return image


# What is answered


def examined(networks: web_analysis.Networks, image: np.ndarray, name: str = "one") -> list[web_analysis.Seen]:
    """The faces of one picture."""
    session = networks.session(name, smoothing=0)
    session.look(image, 0.0)
    return session.examine()


def test_a_photo_has_the_answers_that_the_network_gives_its_crops(networks, network):
    image = scene((200, 100), (20, 30))
    faces = examined(networks, image)
    crops = np.stack([square(image, 48, (x, y, 64, 64)) for x, y in ((20, 30), (200, 100))])
    expected = network.predict(crops)
    assert [seen.title for seen in faces] == ["Face 1", "Face 2"]  # from left to right
    for seen, crop, probabilities in zip(faces, crops, expected.probabilities, strict=True):
        np.testing.assert_array_equal(seen.input, crop)
        np.testing.assert_allclose(seen.probabilities, probabilities, atol=1e-6)
        assert seen.view.shape == (web_analysis.VIEW, web_analysis.VIEW, 3)


def test_grad_cam_is_that_of_explain_and_differs_by_emotion(networks, network):
    seen = examined(networks, scene((20, 30)))[0]
    heats = np.stack([networks.grad_cam(seen, emotion) for emotion in range(7)])
    assert heats.min() >= 0
    assert heats.max() <= 1
    inputs = normalization.apply(to_input(seen.input[None], SHAPE), network.variables["normalizer"])
    for emotion in (0, 3):
        expected = np.asarray(explain.grad_cam(network.model, network.variables, inputs, np.array([emotion])))[0]
        expected = cv2.resize(expected, heats.shape[1:], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(heats[emotion], expected / max(expected.max(), 1e-12), atol=1e-4)
    assert np.ptp(heats, axis=0).max() > 0.1
    veiled = web_analysis.veil(seen.view, np.zeros_like(heats[0]))
    np.testing.assert_array_equal(veiled, seen.view)


def test_visitors_at_the_same_time_get_the_answers_that_they_would_get_alone(network):
    """Grad-CAM replaces the ReLU of the process while it is traced: nobody else may trace then."""
    shared = web_analysis.Networks({"one": network}, lambda: bright_squares, align="box")
    places = [(10 + 70 * i, 20 + 100 * j) for j in range(2) for i in range(4)]
    alone = web_analysis.Networks({"one": network}, lambda: bright_squares, align="box")
    expected = [examined(alone, scene(*places[:n])) for n in range(1, 9)]
    answers, heats = {}, {}

    def visit(count):
        answers[count] = examined(shared, scene(*places[:count]))
        heats[count] = shared.grad_cam(answers[count][0], 2)

    threads = [threading.Thread(target=visit, args=(count,)) for count in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for count, faces in enumerate(expected, 1):
        for seen, other in zip(faces, answers[count], strict=True):
            np.testing.assert_allclose(seen.probabilities, other.probabilities, atol=1e-6)
        np.testing.assert_allclose(heats[count], alone.grad_cam(faces[0], 2), atol=1e-5)


def test_the_answer_to_a_photo(networks, folder):
    path = write_image(folder / "a" / "two <b>people.png", scene((20, 30), (200, 100)))
    result, faces = web.on_photo(networks, str(path), "two")
    assert "two &lt;b&gt;people.png: 2 faces (network two)" in result
    assert result.count("data:image/jpeg;base64,") == 1
    assert len(faces) == 2
    assert not path.exists()
    assert web.on_photo(networks, None, "two") == ("", [])
    result, faces = web.on_photo(networks, str(write_image(folder / "empty.png", scene())), "one")
    assert "no faces" in result
    assert faces == []


def test_a_wrong_file_gets_a_message_and_goes(networks, folder):
    for answer, name in ((web.on_photo, "photo.jpg"), (lambda *given: [*web.on_video(*given)][-1], "clip.mp4")):
        path = folder / name
        path.write_text("text")
        result, faces = answer(networks, str(path), "one")
        assert 'role="alert"' in result
        assert f"{name} is no " in result
        assert faces == []
        assert not path.exists()


def test_only_uploads_are_read_and_removed(folder, tmp_path):
    elsewhere = tmp_path / "mine.txt"
    elsewhere.write_text("keep")
    (folder / "link.txt").symlink_to(elsewhere)
    for path in (elsewhere, folder / "link.txt", folder / ".." / "mine.txt"):
        with pytest.raises(UserError, match="was not uploaded here"):
            web_server.receive(str(path), lambda *_: pytest.fail("it was read"))
    assert elsewhere.read_text() == "keep"
    with pytest.raises(UserError, match="upload it again"):
        web_server.receive(str(folder / "gone.jpg"), web_uploads.read_photo)


def test_the_answer_to_a_video(networks, folder):
    frames = [scene((10 + 4 * i, 20)) if i < 15 else scene((10 + 4 * i, 20), (20, 150)) for i in range(30)]
    path = write_video(folder / "clip.avi", frames)
    *before, (result, faces) = web.on_video(networks, str(path), "one")
    assert before  # frames were shown on the way
    assert all("fer-picture" in shown and seen == [] for shown, seen in before)
    assert not path.exists()
    assert "clip.avi: 30 frames looked at, 10.0 a second; 2 people (network one)" in result
    assert "Person 1, 0.0 to 2.9 s" in result
    assert "Person 2, 1.5 to 2.9 s" in result
    assert [seen.title.split(" at ")[0] for seen in faces] == ["Person 1", "Person 2"]
    nobody = write_video(folder / "dark.avi", [scene()] * 3)
    assert "nobody was seen" in list(web.on_video(networks, str(nobody), "one"))[-1][0]


def test_a_webcam_follows_its_people_with_the_chosen_network(networks):
    result, session = web.on_frame(networks, scene((20, 30)), "one", None)
    assert "fer-picture" in result
    first = session.tracked[0].id
    result, again = web.on_frame(networks, scene((24, 30)), "one", session)
    assert again is session
    assert session.tracked[0].id == first
    result, faces = web.on_examine(session)
    assert "Of the last frame: 1 face" in result
    assert faces[0].network == "one"
    _, other = web.on_frame(networks, scene(), "two", session)
    assert (other.name, other.tracked) == ("two", [])
    assert "start the webcam first" in web.on_examine(None)[0]


def test_the_curves_are_the_probabilities():
    answers = [np.array([0.25, 0.75, 0.0]), np.array([0.5, 0.25, 0.25])]
    person = web_analysis.Person([0.0, 2.0], answers)
    drawn = web_html.curves({1: person}, ("happy", "sad", "neutral"), 4.0)
    assert drawn.count("<polygon") == 3
    assert 'points="0.0,70.0 300.0,70.0 300.0,35.0 0.0,52.5"' in drawn  # happy, from the ground up
    assert 'points="0.0,52.5 300.0,35.0 300.0,17.5 0.0,0.0"' in drawn


def test_intensities_are_shown_of_networks_that_were_trained_for_them(network, variables):
    model = models.create("shallow", num_outputs=6, filters=(4, 4), hidden=(8,))
    made = model.init(jax.random.key(1), np.zeros((1, *SHAPE), np.float32), train=False)
    rated = {**jax.device_get(made), "normalizer": variables["normalizer"]}
    rater = Recognizer(model, heads.make_head("intensity", BASIC7), rated, BASIC7, SHAPE, "fer2013")
    both = web_analysis.Networks({"names": network, "rates": rater}, lambda: bright_squares, align="box")
    assert (both.rates_intensity("names"), both.rates_intensity("rates")) == (False, True)
    seen = examined(both, scene((20, 30)), "rates")[0]
    shown = web_html.face(seen, rates_intensity=True)
    assert shown.count("fer-bar") == 7 + 6
    for value in seen.intensities:
        assert f"<b>{value:.0%}</b>" in shown
    assert "Grad-CAM for fear" in web.on_explain(both, seen, "fear")


# The command and the server


def test_the_names_that_the_page_offers(tmp_path, variables):
    assert web_analysis.short_names(["runs/a/", "runs/b"]) == ["a", "b"]
    assert web_analysis.short_names(["x/a/last", "y/a/last"]) == ["x/a/last", "y/a/last"]
    weights = tmp_path / "run" / "weights.safetensors"
    weights.parent.mkdir()
    metadata = {"emotions": BASIC7, "input_shape": SHAPE, "model": MODEL, "results": {"dataset": "fer2013"}}
    checkpoint.save_weights(weights, variables, metadata)
    options = {"make_detector": lambda: bright_squares, "align": "box"}
    assert web.load_networks([str(weights.parent)], **options).names == ["run"]
    with pytest.raises(UserError, match="there are no weights at"):
        web.load_networks([str(tmp_path / "none")], **options)


def test_without_a_network_the_command_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    with pytest.raises(UserError, match="--weights RUN"):
        web.load_networks([], make_detector=lambda: bright_squares, align="box")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"error: the page needs Gradio: pip install 'fer_jax\[web\]'"):
        web.main([])


# Gradio's server, without a browser


@pytest.fixture(scope="module")
def served(networks, tmp_path_factory):
    """(the page's address, its private folder), with uploads of at most 300,000 bytes."""
    tmp_path_factory.getbasetemp()  # not within the private folder
    pytest.importorskip("gradio", reason="Gradio is absent (extra web)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setattr(web_server, "MAX_BYTES", 300_000)
        with web_server.private_folder() as folder, web_server.serving(web.page(networks)) as address:
            yield address, folder


def ask(url: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """(status, body); a refusal is an answer too."""
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, name: str, content: bytes) -> tuple[int, bytes]:
    head = f'--line\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--line--\r\n"
    return ask(address + "gradio_api/upload", body, "multipart/form-data; boundary=line")


def answered(address: str, path: str) -> dict:
    """What becomes of a photo said to lie at that path on the server."""
    given = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}}
    return happened(address, "upload", [given, "one"])


def happened(address: str, event: str, given: list) -> dict:
    """What becomes of the first event of a kind."""
    config = json.loads(ask(address + "config")[1])
    number = next(each["id"] for each in config["dependencies"] if each["targets"][0][1] == event)
    session = {"fn_index": number, "session_hash": f"test{len(json.dumps(given))}"}
    status, body = ask(address + "gradio_api/queue/join", json.dumps({"data": given, **session}).encode())
    assert status == 200, body
    with urllib.request.urlopen(address + f"gradio_api/queue/data?session_hash={session['session_hash']}") as events:
        for line in events:
            if line.startswith(b"data:") and b"process_completed" in line:
                return json.loads(line[5:])
    raise AssertionError("the event was never completed")


def test_only_this_machine_is_served_with_our_policy(served, networks):
    address, _ = served
    assert address.startswith("http://127.0.0.1:")
    port = int(address.strip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError):  # would be served too were it bound to all interfaces
        socket.create_connection(("127.0.0.2", port), timeout=5)
    with pytest.raises(UserError, match=f"--port={port} is taken"), web_server.serving(web.page(networks), port=port):
        pass
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    config = json.loads(ask(address + "config")[1])
    assert not config["analytics_enabled"]
    assert not config["run_history"]


def test_a_public_page_says_so(networks, served):
    said = [str(web.page(networks, public=public).get_config_file()["components"]) for public in (True, False)]
    assert ["pass through Gradio" in each for each in said] == [True, False]


def test_a_network_whose_outputs_are_not_finite_says_so(network, folder):
    variables = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), network.variables)
    broken = Recognizer(network.model, network.head, variables, network.emotions, network.input_shape)
    networks = web_analysis.Networks({"one": broken}, lambda: bright_squares, align="box")
    with pytest.raises(UserError, match="gives outputs that are not finite"):
        networks.warm_up()  # before anybody comes
    photo = write_image(folder / "photo.png", scene((20, 30)))
    answers = [web.on_photo(networks, str(photo), "one")[0], web.on_frame(networks, scene((20, 30)), "one", None)[0]]
    assert all("outputs that are not finite for 1 of 1 images" in answer for answer in answers)


def test_an_image_without_an_answer_leaves_the_one_before_to_be_examined(networks):
    session = networks.session(networks.names[0])
    session.look(scene((20, 30)), 0.0)
    (before,) = session.examine()

    def refuse(*_):
        raise UserError("outputs that are not finite")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prediction, "require_finite", refuse)
        with pytest.raises(UserError, match="not finite"):
            session.look(scene((120, 30)), 0.1)
    (after,) = session.examine()
    np.testing.assert_array_equal(after.view, before.view)


def test_a_page_that_cannot_be_made_public_is_none(networks, served, monkeypatch, capfd):
    def no_tunnel(*_, **__):
        raise OSError("no tunnel")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    with pytest.raises(UserError, match=r"--share: Gradio's tunnel cannot be made"):  # noqa: SIM117
        with web_server.serving(web.page(networks, public=True), share=True):
            pass


def test_a_giant_frame_of_a_webcam_is_not_decoded(served):
    address, _ = served
    for width, seen in ((500, True), (13_300, False)):
        content = cv2.imencode(".png", np.zeros((width, width), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        frame = {"url": f"data:image/png;base64,{base64.b64encode(content.tobytes()).decode()}"}
        answer = happened(address, "stream", [frame | {"meta": {"_type": "gradio.FileData"}}, "one", None])
        assert answer["success"] == seen, answer


def test_no_file_but_its_own_is_served_or_read(served, tmp_path):
    address, _ = served
    (tmp_path / "mine.txt").write_text("a secret")
    checkout = Path(web.__file__).parents[1] / "pyproject.toml"
    for path in ("/etc/passwd", checkout, "pyproject.toml", "../pyproject.toml", tmp_path / "mine.txt"):
        status, body = ask(f"{address}gradio_api/file={path}")
        assert status in (403, 404), path
        assert b"a secret" not in body
    photo = write_image(tmp_path / "photo.png", scene((20, 30)))
    assert not answered(address, str(photo))["success"]
    assert photo.exists()


def test_nothing_is_fetched_for_a_visitor(served, monkeypatch):
    address, folder = served
    asked = []

    async def get(url, **_):
        asked.append(url)

    monkeypatch.setattr("gradio.processing_utils.sh.get", get)
    monkeypatch.setattr("safehttpx.async_validate_url", get)
    answer = answered(address, "https://faces.example/photo.png")
    assert not answer["success"]
    for path in ("file=https://faces.example/a.png", "file=HTTP%3A//faces.example/a", "file/https://faces.example/a"):
        assert ask(f"{address}gradio_api/{path}")[0] == 403
    assert asked == []
    assert not list(folder.rglob("photo.png"))


def test_an_upload_is_answered_and_gone_and_a_large_one_refused(served):
    address, folder = served
    status, body = upload(address, "photo.png", cv2.imencode(".png", scene((20, 30)))[1].tobytes())
    assert status == 200
    (path,) = json.loads(body)
    assert folder in Path(path).parents
    answer = answered(address, path)
    assert answer["success"]
    assert "photo.png: 1 face (network one)" in answer["output"]["data"][0]
    assert not Path(path).exists()
    assert upload(address, "photo.png", bytes(301_000))[0] == 413  # by Gradio
    host = address.removeprefix("http://").strip("/")
    announced = http.client.HTTPConnection(host, timeout=30)  # by Guard, before any of it has come
    announced.putrequest("POST", "/gradio_api/upload")
    announced.putheader("Content-Length", "2000000")
    announced.endheaders()
    assert announced.getresponse().status == 413
    announced.close()
    assert not [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size]
