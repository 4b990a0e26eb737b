"""Single layers for comparison with the libraries' own kernels. A name says the sizes: `gemm_MxNxK` (weights N × K, M rows for
each of the batch), `conv_INxOUTxSIZEkKsS` (square images and kernels), `attention_HEADSxSEQxDIM` or `causal_...` (one
projection split into q, k and v).
"""
import re

# What the libraries are compared on: encoders, large squares, ResNet-50's layers, and attention short and long.
NAMES = [
    *("gemm_128x768x768", "gemm_128x3072x768", "gemm_128x768x3072", "gemm_4096x768x3072", "gemm_4096x3072x768"),
    *("gemm_1024x1024x1024", "gemm_4096x4096x4096", "gemm_8192x8192x8192"),
    *("conv_3x64x224k7s2", "conv_64x64x56k1s1", "conv_64x64x56k3s1", "conv_64x256x56k1s1", "conv_256x64x56k1s1"),
    *("conv_256x128x56k1s1", "conv_128x128x56k3s2", "conv_128x128x28k3s1", "conv_128x512x28k1s1", "conv_512x128x28k1s1"),
    *("conv_512x256x28k1s1", "conv_256x256x28k3s2", "conv_256x256x14k3s1", "conv_256x1024x14k1s1", "conv_1024x256x14k1s1"),
    *("conv_1024x512x14k1s1", "conv_512x512x14k3s2", "conv_512x512x7k3s1", "conv_512x2048x7k1s1", "conv_2048x512x7k1s1"),
    *("attention_12x128x64", "attention_12x197x64", "attention_16x1024x64", "attention_16x4096x128", "causal_16x4096x128"),
]
PATTERN = re.compile(r"(gemm|conv|attention|causal)_(\d+)x(\d+)x(\d+)(?:k(\d+)s(\d+))?$")


def sizes(name):
    """Kind and sizes of a single layer; None if the name is of something else."""
    found = PATTERN.match(name)
    return found and (found[1], *(int(number) for number in found.groups()[1:] if number))
