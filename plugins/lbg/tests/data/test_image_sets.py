from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mlo_lbg.data.celeba as celeba_module
from mlo.errors import MloError
from mlo_lbg.data.celeba import celeba
from mlo_lbg.data.cifar_jpeg import cifar_jpeg
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.ham10000 import DIAGNOSES, ham10000
from mlo_lbg.data.imagenet import imagenet
from mlo_lbg.data.images import channels, read_image, read_images
from mlo_lbg.data.sampling import stratified


def complaint(read: Callable[[], object]) -> str:
    """The message of the error in which `read` ends, or nothing."""
    try:
        read()
    except MloError as error:
        return str(error)
    return ""


def save(path: Path, grey: int, width: int = 8, height: int = 8, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height), grey).convert(mode).save(path)


def save_classes(root: Path, part: str, files: dict[str, int], suffix: str) -> None:
    for code, (name, count) in enumerate(files.items()):
        for number in range(count):
            save(root / part / name / f"{number:04}{suffix}", 40 * code)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.png", "RGBA"), ("a.jpg", "CMYK")])
def test_the_central_square_of_any_mode(tmp_path: Path, name: str, mode: str) -> None:
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 20, 10))
    image.convert(mode).save(tmp_path / name, **({"quality": 100} if name == "a.jpg" else {}))
    read = read_image(tmp_path / name, size=5).to(torch.int64)
    assert read.shape == (3, 5, 5)
    assert read[2, :, 1:4].min() > 200
    assert read[0, :, 1:4].max() < 60


def test_images_of_the_right_size_are_not_resampled(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_images([tmp_path / "a.png"] * 300, size=6)
    assert read.shape == (300, 3, 6, 6)
    assert (read == torch.from_numpy(pixels).permute(2, 0, 1)).all()


def test_channels_are_mean_and_deviation() -> None:
    images = torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8)
    images[:, 2] = 51
    found = channels(images)
    scaled = images.to(torch.float64) / 255
    assert found.mean == pytest.approx(tuple(scaled.mean((0, 2, 3)).tolist()))
    assert found.std[:2] == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist()[:2])
    assert found.std[2] == 1


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"b\.jpg': expected a JPEG or PNG image"):
        read_image(tmp_path / "b.jpg", size=4)
    with pytest.raises(DataError, match=r"c\.jpg': expected an image file, found none"):
        read_images([tmp_path / "c.jpg"], size=4)
    with pytest.raises(DataError, match="size: expected at least 1 pixel, got 0"):
        read_images([tmp_path / "c.jpg"], size=0)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_any_bytes_end_in_an_image_or_in_one_line(suffix: str, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    save(path, 90, 16, 12)
    good = path.read_bytes()

    @settings(max_examples=150, deadline=None)
    @given(
        end=st.integers(0, len(good)),
        place=st.integers(0, len(good)),
        noise=st.binary(max_size=6),
        whole=st.booleans(),
    )
    def check(end: int, place: int, noise: bytes, whole: bool) -> None:
        path.write_bytes(
            (good[:place] + noise + good[place + len(noise) :])[: None if whole else end]
        )
        message = complaint(lambda: read_image(path, size=8))
        assert "\n" not in message
        assert not message or path.name in message

    check()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_samples_are_stratified_and_nested(sizes: list[int], share: float, seed: int) -> None:
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = max(1, round(share * len(classes)))
    taken = stratified(classes, count, seed=seed, field="n")
    assert len(taken.unique()) == count
    counts = torch.bincount(classes[taken], minlength=len(sizes))
    expected = torch.tensor(sizes, dtype=torch.float64) * count / len(classes)
    assert (counts - expected).abs().max() <= len(sizes)
    larger = stratified(classes, len(classes), seed=seed, field="n")
    more = stratified(classes, min(count + 3, len(classes)), seed=seed, field="n")
    assert set(taken.tolist()) <= set(more.tolist()) <= set(larger.tolist())


def test_cifar_jpeg_and_its_parts(tmp_path: Path) -> None:
    save_classes(tmp_path, "train", {"cat": 20, "dog": 10}, ".jpg")
    save_classes(tmp_path, "test", {"cat": 4, "dog": 2}, ".jpg")
    read = cifar_jpeg(tmp_path, num_train=15, size=8, seed=0)
    assert torch.bincount(read.split.train.targets).tolist() == [10, 5]
    assert read.split.test.targets.tolist() == [0, 0, 0, 0, 1, 1]
    assert read.split.test.inputs[4].unique().tolist() == [40]
    assert (read.classes, read.values) == (("cat", "dog"), ("all",))
    with pytest.raises(DataError, match=r"num_test: expected 1\.\.6 .*, got 7"):
        cifar_jpeg(tmp_path, num_test=7, seed=0)
    with pytest.raises(DataError, match=r"'train' .* get it from https"):
        cifar_jpeg(tmp_path / "none", seed=0)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(DataError, match=r"dog': expected a folder of images"):
        cifar_jpeg(tmp_path, seed=0)


def test_imagenet_shares_count_training_images(tmp_path: Path) -> None:
    save_classes(tmp_path, "train", {"n01": 20, "n02": 20}, ".JPEG")
    save_classes(tmp_path, "val", {"n01": 5, "n02": 5}, ".JPEG")
    read = imagenet(tmp_path, train_share=0.5, test_share=0.1, size=4, seed=0)
    assert torch.bincount(read.split.train.targets).tolist() == [10, 10]
    assert torch.bincount(read.split.test.targets).tolist() == [2, 2]
    with pytest.raises(DataError, match=r"test_share: expected 1\.\.10"):
        imagenet(tmp_path, train_share=0.5, test_share=0.5, size=4, seed=0)
    with pytest.raises(DataError, match="train_share: expected a number above 0"):
        imagenet(tmp_path, train_share=0, seed=0)


def write_celeba(root: Path, images: int) -> None:
    part = [0 if n < 0.6 * images else 1 if n < 0.8 * images else 2 for n in range(images)]
    names = [f"{n:06}.jpg" for n in range(images)]
    for n, name in enumerate(names):
        save(root / "img_align_celeba" / name, 100 * part[n], 18, 22)
    rows = [f"{name}  {1 - 2 * (n % 2)} -1  {1 - n // 2 % 2 * 2}" for n, name in enumerate(names)]
    (root / "list_attr_celeba.txt").write_text(
        "\n".join([str(images), "Attractive Bald Male", *rows, ""])
    )
    (root / "list_eval_partition.txt").write_text(
        "\n".join(f"{name} {code}" for name, code in zip(names, part, strict=True))
    )


def test_celeba_keeps_the_official_parts_apart(tmp_path: Path) -> None:
    write_celeba(tmp_path, 60)
    read = celeba(tmp_path, num_images=40, size=6, seed=0)
    train, test = read.split.train, read.split.test
    assert (len(train), len(test)) == (34, 6)
    grey = train.inputs[:, 0, 0, 0]
    assert (grey[:28] < 5).all()
    assert ((grey[28:] - 100.0).abs() < 5).all()
    assert (test.inputs > 195).all()
    assert read.classes == ("not Attractive", "Attractive")
    assert 12 <= int(train.targets.sum()) <= 22
    other = celeba(tmp_path, target="Male", attribute="Attractive", num_images=40, size=6, seed=0)
    assert other.values == ("not Attractive", "Attractive")


def test_celeba_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"'list_attr_celeba\.txt' .* get it from https://mmlab"):
        celeba(tmp_path, seed=0)

    def fetch(root: str, *, split: str, download: bool) -> None:
        write_celeba(Path(root, "celeba"), 20)

    monkeypatch.setattr(celeba_module, "CelebA", fetch)
    assert len(celeba(tmp_path, num_images=10, size=4, download=True, seed=0).split.test) == 2
    with pytest.raises(DataError, match=r"got 'Mael' \(did you mean 'Male'\?\)"):
        celeba(tmp_path, attribute="Mael", seed=0)
    with pytest.raises(DataError, match=r"num_images: expected 1\.\.12"):
        celeba(tmp_path, seed=0)
    with pytest.raises(DataError, match="another attribute than the target"):
        celeba(tmp_path, attribute="Attractive", seed=0)


def test_broken_celeba_lists_end_in_one_line(tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    write_celeba(root, 20)
    good = {
        name: (root / name).read_bytes()
        for name in ("list_attr_celeba.txt", "list_eval_partition.txt")
    }

    @settings(max_examples=60, deadline=None)
    @given(
        name=st.sampled_from(sorted(good)), place=st.integers(0, 700), noise=st.binary(max_size=9)
    )
    def check(name: str, place: int, noise: bytes) -> None:
        for each, content in good.items():
            (root / each).write_bytes(content)
        (root / name).write_bytes(good[name][:place] + noise)
        assert "\n" not in complaint(lambda: celeba(root, num_images=8, size=2, seed=0))

    check()


def write_ham(root: Path, lesions: int) -> None:
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for n in range(3 * lesions):
        lesion = n % lesions
        sex = ("male", "female", "female", "unknown", "")[lesion % 5]
        lines.append(f"L{lesion},I{n},{DIAGNOSES[lesion % 7]},x,40,{sex},back")
        save(root / "HAM10000_images" / f"I{n}.jpg", 2 * lesion)
    (root / "HAM10000_metadata.csv").write_text("\n".join(lines))


def test_no_lesion_is_in_both_parts(tmp_path: Path) -> None:
    write_ham(tmp_path, 70)
    read = ham10000(tmp_path, size=8, seed=0)
    greys = [set(p.inputs[:, 0, 0, 0].tolist()) for p in (read.split.train, read.split.test)]
    assert not greys[0] & greys[1]
    assert (len(greys[0]) + len(greys[1]), len(greys[1])) == (42, 8)
    assert len(read.split.train) == 3 * len(greys[0])
    assert read.values == ("female", "male")
    kept = ham10000(tmp_path, unknown="own value", size=8, seed=0)
    assert kept.values == ("female", "male", "unknown")
    codes = torch.cat([kept.split.train.attribute, kept.split.test.attribute])
    assert torch.bincount(codes).tolist() == [84, 42, 84]


def test_ham10000_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv.* get it from https://doi\.org"):
        ham10000(tmp_path, seed=0)
    write_ham(tmp_path, 14)
    with pytest.raises(DataError, match=r"unknown: expected one of .* got 'dropp' \(did you mean"):
        ham10000(tmp_path, unknown="dropp", seed=0)
    with pytest.raises(DataError, match="test_share: expected a share that leaves lesions"):
        ham10000(tmp_path, test_share=0, seed=0)
    (tmp_path / "HAM10000_images" / "I2.jpg").unlink()
    with pytest.raises(DataError, match=r"expected the image 'I2\.jpg'"):
        ham10000(tmp_path, seed=0)
    text = (tmp_path / "HAM10000_metadata.csv").read_text()
    (tmp_path / "HAM10000_metadata.csv").write_text(text.replace(",female,", ",femail,", 1))
    with pytest.raises(DataError, match=r"sex: expected one of .*, got 'femail'"):
        ham10000(tmp_path, seed=0)
