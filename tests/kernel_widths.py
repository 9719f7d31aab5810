"""The compiled kernels as other processors would have them: with vectors of another width, made of as many instructions as it takes."""

import ctypes
import functools

from trimtab.common import kernels

# Floats in a vector: this processor's own, and those of SSE or NEON, of AVX and of AVX-512.
WIDTHS = (None, 4, 8, 16)


@functools.cache
def library_of(width: int) -> ctypes.CDLL:
    with kernels._place(None) as place:
        path = place / f"kernels-{width}.so"
        kernels._run(kernels.compilers()[0], *kernels.FLAGS, f"-DWIDTH={width}", *map(str, kernels.SOURCES), "-o", str(path))
        return kernels._loaded(path)
