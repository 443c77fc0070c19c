"""Server variables: what a server may know of the environment of the shell that starts it, and where it may connect.

No key, password or address of the shell reaches a server. Used by vllm_server.py and tools/serve.
"""

import os

# Of any program: where it finds programs and files, language, time zone.
SYSTEM = ("HOME", "LANG", "LANGUAGE", "LC_", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
# Of a program that computes: devices, threads, kernels, memory, caches of compilers.
COMPUTE = (
    *("ATEN_CPU_CAPABILITY", "CUBLAS_", "CUDA_", "GLOO_", "GOMP_", "KMP_", "LD_LIBRARY_PATH", "MALLOC_", "MKL_"),
    *("NCCL_", "NPY_DISABLE_CPU_FEATURES", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHONHASHSEED", "RAY_"),
    *("TORCHINDUCTOR_", "TRITON_", "XDG_CACHE_HOME"),
)
NOWHERE = "http://127.0.0.1:9"  # the discard port of this machine, on which nothing listens
# Where a server cannot be kept off the network, the libraries that it asks with find this proxy, which refuses.
REFUSING_PROXY = {
    name: value
    for upper, value in {
        **dict.fromkeys(("ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY"), NOWHERE),
        "NO_PROXY": "127.0.0.1,localhost",
    }.items()
    for name in (upper, upper.lower())
}


def inherited(*names: str) -> dict[str, str]:
    """Return the variables of this process that have one of the names, or that begin with one that ends in "_"."""
    prefixes = tuple(name for name in names if name.endswith("_"))
    return {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}
