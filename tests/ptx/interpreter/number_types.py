"""PTX's types as numpy's."""

import numpy as np

NUMPY = {
    "u8": np.uint8, "b8": np.uint8, "s8": np.int8,
    "u16": np.uint16, "b16": np.uint16, "s16": np.int16, "f16": np.float16, "bf16": np.uint16,
    "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "f32": np.float32,
    "f16x2": np.uint32, "bf16x2": np.uint32, "tf32": np.uint32,
    "u64": np.uint64, "b64": np.uint64, "s64": np.int64, "f64": np.float64,
    "pred": np.bool_,
}  # fmt: skip

UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def width(ptx_type):
    """Bits of a value of the type; 1 for a predicate."""
    return 1 if ptx_type == "pred" else np.dtype(NUMPY[ptx_type]).itemsize * 8


def unsigned(ptx_type):
    """The numpy type that holds the type's bits."""
    return UNSIGNED[width(ptx_type)]


def is_float(ptx_type):
    return ptx_type in ("f16", "f32", "f64")


def bf16_to_f32(bits):
    """uint16 bit patterns of bfloat16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values):
    """float32 as bit patterns of the nearest bfloat16, ties to even; NaN becomes 0x7fff."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(values), 0x7FFF, nearest >> np.uint32(16)).astype(np.uint16)


def round_towards(values, number_type, mode):
    """`values` in a wider float type to `number_type` with PTX's rounding mode rn, rz, rm or rp."""
    nearest = values.astype(number_type)
    if mode == "rn":
        return nearest
    back = nearest.astype(values.dtype)
    if mode == "rz":
        too_far = np.abs(back) > np.abs(values)
        goal = np.zeros_like(nearest)
    elif mode == "rm":
        too_far, goal = back > values, np.full_like(nearest, -np.inf)
    else:
        too_far, goal = back < values, np.full_like(nearest, np.inf)
    return np.where(too_far, np.nextafter(nearest, goal), nearest)
