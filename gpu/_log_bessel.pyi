import numpy as np

log_iv: np.ufunc
log_ive: np.ufunc
log_kv: np.ufunc
log_kve: np.ufunc
log_iv_derivatives: np.ufunc
log_ive_derivatives: np.ufunc
log_kv_derivatives: np.ufunc
log_kve_derivatives: np.ufunc
iv_ratio: np.ufunc
ratio_and_complement: np.ufunc
ratio_inverse: np.ufunc

def set_threads(count: int, /) -> None: ...
def get_threads() -> int: ...
def set_instruction_set(name: str, /) -> None: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
