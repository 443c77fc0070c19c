"""Environment: what a stage runs with, in its container as on the host."""

# Same bytes on every x86-64 processor with AVX2, whatever its vendor and number of cores (docs/determinism.md).
DETERMINISM = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels: not AVX-512 where there is some
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS: no races between streams
    "MKL_CBWR": "COMPATIBLE",  # the one code path that MKL runs alike on Intel and AMD
    "MKL_DYNAMIC": "FALSE",  # sums are split by threads, so their number must not follow the cores
    "MKL_NUM_THREADS": "2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OMP_DYNAMIC": "FALSE",
    "OMP_NUM_THREADS": "2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "SANDYBRIDGE",  # NumPy's matrix product: adds up one by one, as MKL's does above
    "OPENBLAS_NUM_THREADS": "1",  # merge works on several blocks at once instead
    "PYTHONHASHSEED": "0",  # the order of sets of strings
}
# The same bytes, sooner. PyTorch frees and asks for the same large blocks at every operation: keeping them halves the
# time of a training step on the tiny model, for a fifth more memory (glibc; docs/determinism.md has the figures).
SPEED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait crawl when cores are shared or fewer
}
# No stage but base may use the network; no library may phone home. llm-compressor's full log goes to LOG_FOLDER.
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "LLM_COMPRESSOR_LOG_LEVEL": "ERROR"}


def of_stage(stage: str) -> dict[str, str]:
    """Give the variables that are set for a stage, whatever the caller's say."""
    return DETERMINISM | SPEED | QUIET | {"HF_HUB_OFFLINE": "0" if stage == "base" else "1"}
