"""Stage variables: the environment variables that every stage runs with, in a container and without."""

# Same bytes on every x86-64 processor with AVX2, whatever its vendor and number of cores (docs/determinism.md).
DETERMINISM = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels: not AVX-512, even where the processor has it
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS: no races between streams
    "MKL_CBWR": "COMPATIBLE",  # the only code path of MKL that is the same on Intel and AMD
    "MKL_DYNAMIC": "FALSE",  # sums are split by threads, so their number must not depend on the cores
    "MKL_NUM_THREADS": "2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OMP_DYNAMIC": "FALSE",
    "OMP_NUM_THREADS": "2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "SANDYBRIDGE",  # NumPy's matrix product: adds one by one, as MKL does above
    "OPENBLAS_NUM_THREADS": "1",  # merge works on several blocks in parallel instead
    "PYTHONHASHSEED": "0",  # the order of sets of strings
}
# The memory allocator of a stage, where it is installed (Debian: libtcmalloc-minimal4). glibc's splits the large
# aligned blocks that PyTorch frees, and asks for more in the next step (figures in docs/determinism.md).
ALLOCATORS = tuple(f"/usr/{folder}/libtcmalloc_minimal.so.4" for folder in ("lib/x86_64-linux-gnu", "lib64", "lib"))
# The same bytes, faster. PyTorch frees and requests the same large blocks in every operation: keeping them halves the
# time of a training step on the tiny model, and costs a fifth more memory (glibc; figures in docs/determinism.md).
SPEED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait without sleeping are slow where cores are shared or few
}
# Only base may use the network; no library may send telemetry. llm-compressor's full log goes to LOG_FOLDER.
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "LLM_COMPRESSOR_LOG_LEVEL": "ERROR"}


def stage_variables(stage: str) -> dict[str, str]:
    """Return the variables that are set for a stage; they replace the caller's."""
    return DETERMINISM | SPEED | QUIET | {"HF_HUB_OFFLINE": "0" if stage == "base" else "1"}
