"""Files of codes: the format, range coding by an entropy model, and images of any size.

`codec.bitstream` needs no PyTorch, so the names below are imported when first used.
"""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.codec.bitstream import CodeFileError, DamagedCodes, OtherModelsCodes, Reader
    from discrete_distribution_network.codec.entropy_model import EntropyModel, fit_entropy_model
    from discrete_distribution_network.codec.image_codec import ImageCodec, fingerprint

__all__ = [
    "CodeFileError",
    "DamagedCodes",
    "EntropyModel",
    "ImageCodec",
    "OtherModelsCodes",
    "Reader",
    "fingerprint",
    "fit_entropy_model",
]

__getattr__ = lazy(
    __name__,
    {
        "CodeFileError": "bitstream",
        "DamagedCodes": "bitstream",
        "EntropyModel": "entropy_model",
        "ImageCodec": "image_codec",
        "OtherModelsCodes": "bitstream",
        "Reader": "bitstream",
        "fingerprint": "image_codec",
        "fit_entropy_model": "entropy_model",
    },
)
