"""clzoo.lite: the same vectors as clzoo.Encoder, without torch, on the device that was asked for."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image, ImageCms
from small_models import small_encoder

import clzoo
import clzoo.lite
from clzoo.config import Preprocessing
from clzoo.embed import DEFAULT_MODEL
from clzoo.errors import ClzooError
from clzoo.export import export_onnx
from clzoo.transform import resize_and_crop, resize_and_keep_margin
from clzoo.zoo.saving import save_entry

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "examples" / "pictures").rglob("*.jpg"))
FORBIDDEN = {
    *("torch", "timm", "torchvision", "scipy", "matplotlib", "pydantic", "pyarrow", "huggingface_hub", "safetensors"),
    *("click", "rich", "yaml", "filelock", "onnx", "onnxscript"),
}


@pytest.fixture(scope="module")
def encoder():
    return clzoo.load(DEFAULT_MODEL, device="cpu", offline=True)


@pytest.fixture(scope="module")
def graphs(encoder, tmp_path_factory):
    """The bundled model with the preprocessing outside and inside."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        where: export_onnx(encoder, folder / f"{where}.onnx", preprocess=where == "inside").path
        for where in ("outside", "inside")
    }


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A hub entry, stored in fp16, with its model.onnx."""
    folder = save_entry(small_encoder(), tmp_path_factory.mktemp("hub") / "small", dtype="fp16")
    export_onnx(clzoo.load(folder, device="cpu"), folder / "model.onnx")
    return folder


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_the_pictures_of_the_examples_get_the_vectors_of_torch(graphs, encoder, where):
    lite = clzoo.lite.load(graphs[where])
    vectors = lite.embed(PICTURES, batch_size=50)
    assert (vectors.shape, vectors.dtype) == ((len(PICTURES), encoder.dim), np.float32)
    np.testing.assert_allclose(vectors, encoder.embed(PICTURES), atol=1e-4)
    raw = lite.embed(PICTURES[:3], normalize=False)
    np.testing.assert_allclose(raw, encoder.embed(PICTURES[:3], normalize=False), atol=1e-4)


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_images_of_any_shape_get_the_vectors_of_torch(graphs, encoder, where):
    whole = Image.open(PICTURES[0]).convert("RGB")
    shapes = [(256, 256), (32, 32), (20, 31), (200, 33), (33, 200), (47, 46), (500, 375), (60, 300)]
    images = [whole.resize(shape) for shape in shapes]
    np.testing.assert_allclose(clzoo.lite.load(graphs[where]).embed(images), encoder.embed(images), atol=1e-4)


@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.93])
def test_a_square_with_its_margin_is_cut_to_the_pixels_of_the_whole_image(crop_pct):
    p = Preprocessing(size=31, crop_pct=crop_pct)
    for shape in [(256, 256), (p.resize, p.resize + 1), (p.resize + 2, p.resize), (90, 47), (40, 200)]:
        image = Image.open(PICTURES[1]).resize(shape)
        square = resize_and_keep_margin(image, p)
        assert square.shape == (p.resize, p.resize, 3)
        np.testing.assert_array_equal(resize_and_crop(Image.fromarray(square), p), resize_and_crop(image, p))


def test_everything_that_holds_an_image_gets_the_same_vector(graphs, encoder):
    lite, path = clzoo.lite.load(str(graphs["outside"])), PICTURES[5]
    image = Image.open(path).convert("RGB")
    array = np.asarray(image)
    one = lite.embed(path)
    assert one.shape == (encoder.dim,)
    for same in (str(path), path.read_bytes(), image, array):
        np.testing.assert_array_equal(lite.embed(same), one)
    np.testing.assert_allclose(lite.embed([path, array, image]), np.stack([one] * 3), atol=1e-6)
    assert lite.embed(np.stack([array, array])).shape == (2, encoder.dim)


def odd_images(folder):
    """A turned photograph, alpha, 16 bits of grey, a wide color space, one transparent color: file by file."""
    photograph = Image.open(PICTURES[0]).convert("RGB").resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = photograph.copy()
    alpha.putalpha(Image.linear_gradient("L").resize((64, 48)))
    wide = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red = int.from_bytes(wide[wide.index(b"rXYZ") + 4 :][:4], "big") + 8
    wide[red : red + 4] = (50_000).to_bytes(4, "big")
    photograph.save(folder / "turned.jpg", exif=exif)
    alpha.save(folder / "alpha.png")
    Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257).save(folder / "grey.png")
    photograph.save(folder / "wide.jpg", icc_profile=bytes(wide))
    photograph.quantize(8).save(folder / "palette.gif", transparency=0)
    return sorted(folder.iterdir())


def test_odd_images_are_the_same_as_files_bytes_and_pil_images_with_and_without_torch(graphs, encoder, tmp_path):
    lite, vectors = clzoo.lite.load(graphs["outside"]), []
    for path in odd_images(tmp_path):
        loaded = Image.open(path)
        loaded.load()
        for image in (path, path.read_bytes(), Image.open(path), loaded):
            vectors.append(encoder.embed(path))
            np.testing.assert_allclose(encoder.embed(image), vectors[-1], atol=1e-6)
            np.testing.assert_allclose(lite.embed(image), vectors[-1], atol=1e-4)
    assert len(np.unique(np.round(vectors, 3), axis=0)) == 5  # and none of them is like another
    for kind in (np.float32, np.int32):
        for embed in (encoder.embed, lite.embed):
            with pytest.raises(ClzooError, match="no agreed range"):
                embed(Image.fromarray(np.ones((8, 8), kind)))


def test_what_is_no_image_is_named(graphs, tmp_path):
    lite = clzoo.lite.load(graphs["outside"])
    (tmp_path / "broken.jpg").write_bytes(PICTURES[0].read_bytes()[:500])
    for images, message in [
        ([PICTURES[0], tmp_path / "broken.jpg"], "broken.jpg cannot be decoded"),
        ([b"nothing"], "image 0 of the call cannot be decoded"),
        ([], "no images"),
        (np.full((8, 8, 3), 2, np.float32), r"must lie in \[0, 1\], found \[2, 2\]: divide by 255"),
        ([None], "cannot embed a NoneType"),
    ]:
        with pytest.raises(ClzooError, match=message):
            lite.embed(images)


# Where graphs come from -----------------------------------------------------------------------------------------------


def test_an_entry_is_loaded_by_its_folder_and_by_its_name(entry, monkeypatch):
    from_folder = clzoo.lite.load(entry)
    expected = clzoo.load(entry, device="cpu").embed(PICTURES[0])
    np.testing.assert_allclose(from_folder.embed(PICTURES[0]), expected, atol=1e-4)
    monkeypatch.setattr("clzoo.assets.HUB", entry.parent)
    assert clzoo.lite.load("small").provenance == from_folder.provenance


def test_a_graph_of_other_weights_than_its_entry_is_refused(entry, tmp_path):
    other = save_entry(small_encoder(seed=1), tmp_path / "other")
    (other / "model.onnx").write_bytes((entry / "model.onnx").read_bytes())
    with pytest.raises(ClzooError, match=r"was exported from weights .* Type: clzoo export .*other --to onnx --out"):
        clzoo.lite.load(other)


def test_a_graph_for_another_preprocessing_than_its_entry_s_is_refused(entry, tmp_path):
    other = save_entry(clzoo.load(entry, device="cpu", size=64), tmp_path / "other", dtype="fp16")
    (other / "model.onnx").write_bytes((entry / "model.onnx").read_bytes())
    with pytest.raises(
        ClzooError, match=r"was exported for .*size=32.*config.json says .*size=64.* Type: clzoo export"
    ):
        clzoo.lite.load(other)


def test_an_entry_of_the_hub_is_downloaded(hub, entry):
    hub.add("tester/small", {name: (entry / name).read_bytes() for name in ("config.json", "model.onnx")})
    code = """
import sys, clzoo.lite
lite = clzoo.lite.load("hf-hub:tester/small")
print(lite.provenance.model, lite.embed(sys.argv[1]).shape)
"""
    done = hub.python("-c", code, str(PICTURES[0]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cacr-test_resnet-cifar10", "(96,)"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.onnx", r"nowhere.onnx does not exist. Type: clzoo export"),
        ("./nowhere", "nowhere does not exist; expected an .onnx file or the folder"),
        ("cacr-resnet50-in1l", "The closest: cacr-resnet50-in1k"),
        ("cacr-resnet50-in1k", "comes without a model.onnx. Where torch is installed, type: clzoo export"),
        (ROOT / "hub" / "cacr-resnet50-in1k", "holds no model.onnx"),
    ],
)
def test_what_is_not_there_is_an_error_with_the_next_step(name, message):
    with pytest.raises(ClzooError, match=message):
        clzoo.lite.load(name)


def test_files_that_are_not_ours_or_not_whole_are_refused(graphs, tmp_path):
    whole = graphs["outside"].read_bytes()
    model = onnx.load_from_string(whole)

    def saved(**metadata):
        onnx.helper.set_model_props(model, metadata)
        return model.SerializeToString()

    ours = {entry.key: entry.value for entry in model.metadata_props}
    for content, message in [
        (whole[: len(whole) // 2], "cannot be opened by ONNX Runtime"),
        (b"", "cannot be opened by ONNX Runtime"),
        (saved(author="somebody"), r"was not exported by clzoo: its metadata has no entries clzoo\.\*"),
        (saved(**{**ours, "clzoo.schema": "2"}), "clzoo.schema is 2, this clzoo reads up to 1"),
        (saved(**{**ours, "clzoo.preprocessing": "{"}), "metadata is damaged"),
        (saved(**{**ours, "clzoo.preprocess": "inside"}), "It was changed after its export"),
    ]:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(ClzooError, match=message):
            clzoo.lite.load(path)


# Where they run -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="ONNX Runtime has CUDA")
def test_a_gpu_that_onnx_runtime_does_not_have_is_an_error(graphs):
    with pytest.raises(ClzooError, match=r"has only .*CPUExecutionProvider.* pip install onnxruntime-gpu"):
        clzoo.lite.load(graphs["outside"], device="cuda")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_promised_and_does_not_start_is_an_error(graphs, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ClzooError, match=r"runs .* on CPUExecutionProvider: CUDAExecutionProvider could not start"):
        clzoo.lite.load(graphs["outside"], device="cuda")


@pytest.mark.parametrize(
    ("device", "provider", "packages"),
    [
        ("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu tensorrt"),
        ("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
        ("coreml", "CoreMLExecutionProvider", r"onnxruntime \(on macOS\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_by_name_runs_there_or_is_an_error_that_says_what_to_install(
    graphs, monkeypatch, device, provider, packages
):
    install = f"pip install {packages}"
    if provider not in onnxruntime.get_available_providers():
        with pytest.raises(ClzooError, match=rf"{device}.* has only .*CPUExecutionProvider.* {install}"):
            clzoo.lite.load(graphs["outside"], device=device)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
        with pytest.raises(ClzooError, match=rf"on CPUExecutionProvider: {provider} could not start.* {install}"):
            clzoo.lite.load(graphs["outside"], device=device)
        return
    found, expected = (clzoo.lite.load(graphs["outside"], each).embed(PICTURES[:2]) for each in (device, "cpu"))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_unknown_device_is_an_error(graphs):
    with pytest.raises(ClzooError, match="device must be cpu, cuda, tensorrt, openvino or coreml, found 'mps'"):
        clzoo.lite.load(graphs["outside"], device="mps")


# Without torch --------------------------------------------------------------------------------------------------------

EMBED = """
import json, sys
import clzoo.lite
lite = clzoo.lite.load(sys.argv[1])
print(json.dumps([lite.embed(sys.argv[2]).tolist(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""

BLOCKED = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_it_embeds_where_only_onnxruntime_numpy_and_pillow_can_be_imported(graphs, encoder, where):
    command = [sys.executable, "-c", BLOCKED + EMBED, graphs[where], PICTURES[7]]
    vector, modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    np.testing.assert_allclose(vector, encoder.embed(PICTURES[7]), atol=1e-4)
    assert not set(modules) & FORBIDDEN


def test_without_the_hubs_client_a_repository_is_an_error_that_says_what_to_install():
    code = BLOCKED + "import clzoo.lite; clzoo.lite.load('hf-hub:org/name')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Type: pip install huggingface_hub" in done.stderr


@pytest.mark.slow
def test_it_embeds_in_an_environment_of_the_wheel_and_three_packages(graphs, encoder, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "onnxruntime", "numpy", "pillow"], capture_output=True, timeout=300).returncode:
        pytest.skip("no package registry within reach")
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    command = [python, "-c", EMBED, graphs["inside"], PICTURES[9]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    vector, modules = json.loads(done.stdout)
    np.testing.assert_allclose(vector, encoder.embed(PICTURES[9]), atol=1e-4)
    assert "torch" not in modules
    installed = subprocess.run([*pip[:3], "list", "--format=json"], check=True, capture_output=True, text=True).stdout
    assert not {package["name"].lower() for package in json.loads(installed)} & FORBIDDEN
