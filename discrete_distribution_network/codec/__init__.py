"""Files of codes: the format, range coding by an entropy model, and images of any size.

`codec.bitstream` needs no PyTorch, so the names below are imported when first used.
"""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.codec.bitstream import CodeFileError, DamagedCodes, OtherModelsCodes, Reader
    from discrete_distribution_network.codec.image_codec import ImageCodec, fingerprint
    from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL, EntropyModel
    from discrete_distribution_network.training.entropy_fitting import fit_entropy_model

__all__ = [
    "ENTROPY_MODEL",
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
        "ENTROPY_MODEL": "..prior.entropy_model",
        "CodeFileError": "bitstream",
        "DamagedCodes": "bitstream",
        "EntropyModel": "..prior.entropy_model",
        "ImageCodec": "image_codec",
        "OtherModelsCodes": "bitstream",
        "Reader": "bitstream",
        "fingerprint": "image_codec",
        "fit_entropy_model": "..training.entropy_fitting",
    },
)
