"""HDR pictures as SDR: what a viewer without an HDR screen is shown.

In: a decoded frame whose transfer is PQ (SMPTE ST 2084) or HLG (ARIB STD-B67). Out: 8-bit RGB. The same steps as the filters
`zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv` of the ffmpeg
program, with the formulas of zimg (zscale) and of libavfilter/vf_tonemap.c; PyAV's FFmpeg has no zscale. Light is counted in
units of 100 cd/m2, the white of SDR.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

PQ, HLG = 16, 18
"""Of AVColorTransferCharacteristic (ITU-T H.273)."""
WHITE_NITS = 100.0
"""zscale's npl, and vf_tonemap's REFERENCE_WHITE."""
PEAK = np.float32(10.0)
"""Light that becomes white, 1000 cd/m2: vf_tonemap's for light that says nothing more. What a clip says of its brightest light
(MaxCLL, mastering screen) does not count: in ffmpeg 9 zscale drops it before vf_tonemap could see it."""
_BT709, _UNSPECIFIED, _BT2020 = 1, 2, 9
"""Of AVColorSpace and AVColorPrimaries; of BT.2020 the one with non-constant luminance."""
_P3_D65 = 12
_WHITE_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    _BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    _BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    _P3_D65: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""x, y of red, green and blue (ITU-T H.273, table 2); white is D65 for all three."""
_ROWS_AT_ONCE = 64
"""So that what is worked on stays in the processor's cache."""


class Light(NamedTuple):
    """How numbers of a picture become light: `transfer` PQ or HLG, `primaries` as of AVColorPrimaries."""

    transfer: int
    primaries: int


def is_hdr(frame: VideoFrame) -> bool:
    """Whether the frame says that it is PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def light_of(frame: VideoFrame) -> Light:
    """Of an HDR frame; primaries that are not known here count as BT.2020, which is what HDR video has."""
    primaries = frame.color_primaries if frame.color_primaries in _PRIMARIES else _BT2020
    return Light(frame.color_trc, primaries)


def deep_rgb(frame: VideoFrame) -> np.ndarray:
    """(H, W, 3) uint16 RGB of a frame, as it is coded; without a matrix it is BT.2020's."""
    matrix = _BT2020 if frame.colorspace == _UNSPECIFIED else None
    return np.asarray(frame.reformat(format="rgb48le", src_colorspace=matrix, threads=1).to_ndarray())


def tone_mapped(rgb: np.ndarray, light: Light) -> np.ndarray:
    """(H, W, 3) uint16 RGB as coded -> (H, W, 3) uint8 RGB of SDR: BT.709, gamma 2.4 (BT.1886)."""
    parts = [_tone_mapped(rgb[top : top + _ROWS_AT_ONCE], light) for top in range(0, len(rgb), _ROWS_AT_ONCE)]
    return np.concatenate(parts)


def _tone_mapped(rgb: np.ndarray, light: Light) -> np.ndarray:
    """vf_tonemap: the brightest of a pixel's colours follows the curve, the others keep their proportion to it."""
    import cv2

    colours = _linear(light.transfer)[rgb]  # (h, W, 3) float32
    if light.primaries != _BT709:
        colours = cv2.transform(colours, _to_bt709(light.primaries))
    brightest = np.maximum(np.maximum(colours[..., 0], colours[..., 1]), np.maximum(colours[..., 2], np.float32(1e-6)))
    gain = _hable(brightest) / (_hable(PEAK) * brightest)
    mapped = np.clip(colours * gain[..., None], 0, 1)
    return np.asarray(cv2.pow(mapped, 1 / 2.4) * 255 + 0.5).astype(np.uint8)


def _hable(light: np.ndarray | np.float32) -> np.ndarray:
    """John Hable's filmic curve with the constants of vf_tonemap.c."""
    a, b, c, d, e, f = 0.15, 0.50, 0.10, 0.20, 0.02, 0.30
    return np.asarray((light * (light * a + b * c) + d * e) / (light * (light * a + b) + d * f) - e / f)


@functools.cache
def _linear(transfer: int) -> np.ndarray:
    """Light of every 16-bit number, (65536,) float32 in SDR whites.

    PQ: the EOTF of SMPTE ST 2084, up to 10000 cd/m2. HLG: the inverse OETF of ARIB STD-B67, then the system gamma 1.2 of a
    screen of 1000 cd/m2 on each colour by itself, as zimg has it.
    """
    signal = np.arange(65536) / 65535
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        nits = 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = 1000 * scene**1.2
    return np.asarray(nits / WHITE_NITS, np.float32)


@functools.cache
def _to_bt709(primaries: int) -> np.ndarray:
    """(3, 3) float32: linear RGB of other primaries -> of BT.709."""
    return np.asarray(np.linalg.inv(_to_xyz(_BT709)) @ _to_xyz(primaries), np.float32)


def _to_xyz(primaries: int) -> np.ndarray:
    """(3, 3): linear RGB -> CIE XYZ, by the chromaticities of the primaries and of white (SMPTE RP 177)."""
    colours = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*_PRIMARIES[primaries], _WHITE_D65)]).T  # (3, 4)
    return np.asarray(colours[:, :3] * np.linalg.solve(colours[:, :3], colours[:, 3]))
