from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import InputError
from stages.media import is_photo, read_photo

RED, BLUE = (200, 30, 40), (20, 40, 210)


def half(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def near(pixel: np.ndarray, colour: tuple[int, int, int], by: int = 6) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= by)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp", ".tif"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    half().save(tmp_path / f"a{suffix}", quality=95) if suffix != ".png" else half().save(tmp_path / "a.png")
    assert is_photo(tmp_path / f"a{suffix}")
    pixels = read_photo(tmp_path / f"a{suffix}")
    assert pixels.shape == (20, 40, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    assert near(pixels[10, 5], RED) and near(pixels[10, 35], BLUE)


def test_videos_are_no_photos() -> None:
    assert not any(is_photo(Path(f"a.{s}")) for s in ("mp4", "gif", "mov", "txt", ""))


UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_picture(tmp_path: Path, orientation: int) -> None:
    stored = half() if UPRIGHT[orientation] is None else half().transpose(UPRIGHT[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = read_photo(tmp_path / "a.jpg")
    assert pixels.shape == (20, 40, 3) and near(pixels[10, 5], RED) and near(pixels[10, 35], BLUE)


def test_grey_becomes_three_channels(tmp_path: Path) -> None:
    half().convert("L").save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "b.png")
    grey = read_photo(tmp_path / "a.png")
    assert grey.shape == (20, 40, 3) and (grey[..., 0] == grey[..., 2]).all()
    assert read_photo(tmp_path / "b.png").tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_parts_are_over_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :2] = (*RED, 255)
    pixels[:, 2:4] = (*RED, 0)  # colour that nobody is meant to see
    pixels[:, 4:] = (0, 0, 0, 128)
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = Image.fromarray(pixels[:, :4]).convert("P", palette=Image.Palette.ADAPTIVE)
    elif mode != "RGBA":
        picture = picture.convert("LA")
    picture.save(tmp_path / ("a.png" if mode != "PA" else "a.webp"), **({"lossless": True} if mode == "PA" else {}))
    found = read_photo(tmp_path / ("a.png" if mode != "PA" else "a.webp"))
    assert found[0, 2:4].tolist() == [[255] * 3] * 2
    assert (near(found[0, 0], RED) or mode in ("LA", "PA")) and (mode == "P" or near(found[0, 5], (127, 127, 127)))


def test_cmyk_is_read_as_colour(tmp_path: Path) -> None:
    half().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = read_photo(tmp_path / "a.jpg")
    assert near(pixels[10, 5], RED, 12) and near(pixels[10, 35], BLUE, 12)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight_instead_of_white(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[None].repeat(3, 0)
    Image.fromarray(ramp).save(tmp_path / f"a{suffix}")
    assert read_photo(tmp_path / f"a{suffix}")[1, :, 0].tolist() == list(range(256))


def test_dark_sixteen_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 200, np.uint16)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").max() == 1


def test_floats_are_read_on_their_scale(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32)[None]).save(tmp_path / "a.tif")
    assert read_photo(tmp_path / "a.tif")[0, :, 1].tolist() == list(range(256))


def test_an_animation_gives_its_first_picture(tmp_path: Path) -> None:
    half().save(tmp_path / "a.webp", save_all=True, append_images=[Image.new("RGB", (40, 20), "black")], lossless=True)
    assert near(read_photo(tmp_path / "a.webp")[10, 5], RED)


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_what_is_no_picture_is_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    half((400, 200)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"some words", whole[: len(whole) // 3], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\{suffix}: not a picture that can be read"):
            read_photo(path)


def test_absent_and_monstrous_pictures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_photo(tmp_path / "none.png")
    with pytest.raises(InputError, match="not a picture"):
        read_photo(tmp_path)
    half().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="not a picture that can be read"):
        read_photo(tmp_path / "a.png")
