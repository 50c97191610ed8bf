"""Instructions of several lanes: shuffles, votes, barriers, copies, atomics."""

import numpy as np

from .hopper_instructions import copy_box
from .memory import Fault
from .number_types import NUMPY, width
from .operands import instruction

ABSENT = np.uint32(0xFFFBFFFB)  # what a lane reads from a lane that does not take part


def _warps(mask):
    return mask.reshape(-1, 32)


def _require_members(team, mask, members, what):
    """Faults unless in each warp either no lane or every living lane of `members` executes."""
    active = _warps(mask)
    wanted = _warps(team.alive) & members
    wrong = active.any(axis=1) & (active != wanted).any(axis=1)
    if wrong.any():
        raise Fault(f"{what} by a diverged warp {team.first_warp + int(np.argmax(wrong))}")


def _check_member_mask(team, mask, member_mask, what):
    members = (member_mask[:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)).astype(bool)
    own = members[np.arange(team.lanes), np.arange(team.lanes) % 32]
    if not own[mask].all():
        raise Fault(f"{what}: the calling lane is not in its member mask")
    _require_members(team, mask, members[np.arange(0, team.lanes, 32) + _first_active(mask)], what)


def _first_active(mask):
    return np.argmax(_warps(mask), axis=1)


@instruction("shfl")
def shuffle(op):
    mode = op.opcode[2]
    destinations = op.operands[0].split("|")
    write = op.writer(destinations[0])
    write_valid = op.writer(destinations[1]) if len(destinations) > 1 else None
    value, distance, clamp, members = (op.reader(i, "b32") for i in (1, 2, 3, 4))

    def execute(team, mask):
        _check_member_mask(team, mask, members(team), "shfl")
        lane = np.arange(team.lanes) % 32
        control = clamp(team).astype(np.int64)
        segment, limit = control >> 8 & 31, control & 31
        step = distance(team).astype(np.int64) & 31
        last = lane & segment | limit & ~segment
        if mode == "up":
            source = lane - step
            valid = source >= last
        elif mode == "down":
            source = lane + step
            valid = source <= last
        elif mode == "bfly":
            source = lane ^ step
            valid = source <= last
        else:
            source = lane & segment | step & ~segment
            valid = source <= last
        source = np.arange(team.lanes) - lane + np.where(valid, source, lane)
        write(team, np.where(mask[source], value(team)[source], ABSENT), mask)
        if write_valid:
            write_valid(team, valid, mask)

    return execute


def _per_warp(team, mask, function):
    """function(lanes of a warp that execute) for each warp; its result for all lanes."""
    results = np.zeros(team.lanes, np.uint64)
    for begin in range(0, team.lanes, 32):
        active = begin + np.flatnonzero(mask[begin : begin + 32])
        if len(active):
            results[begin : begin + 32] = function(active)
    return results


def _bits_of(lanes):
    return sum(1 << int(lane % 32) for lane in lanes)


@instruction("vote")
def vote(op):
    mode = op.opcode[2]
    predicate, members, write = op.reader(1, "pred"), op.reader(2, "b32"), op.writer()

    def execute(team, mask):
        _check_member_mask(team, mask, members(team), "vote")
        values = predicate(team)
        functions = {
            "ballot": lambda lanes: _bits_of(lanes[values[lanes]]),
            "any": lambda lanes: values[lanes].any(),
            "all": lambda lanes: values[lanes].all(),
            "uni": lambda lanes: (values[lanes] == values[lanes[0]]).all(),
        }
        result = _per_warp(team, mask, functions[mode])
        write(team, result.astype(np.uint32 if mode == "ballot" else np.bool_), mask)

    return execute


@instruction("match")
def match(op):
    if op.opcode[1] != "any":
        raise Fault(f"unsupported PTX: {op.text}")
    value, members, write = op.reader(1), op.reader(2, "b32"), op.writer()

    def execute(team, mask):
        _check_member_mask(team, mask, members(team), "match")
        values, result = value(team), np.zeros(team.lanes, np.uint32)
        for lane in np.flatnonzero(mask):
            begin = lane // 32 * 32
            neighbours = np.arange(begin, begin + 32)
            equal = mask[neighbours] & (values[neighbours] == values[lane])
            result[lane] = _bits_of(np.flatnonzero(equal))
        write(team, result, mask)

    return execute


@instruction("redux")
def reduce(op):
    functions = {
        "add": lambda values: int(values.astype(np.uint64).sum()) & 0xFFFFFFFF,
        "min": lambda values: int(values.min()) & 0xFFFFFFFF,
        "max": lambda values: int(values.max()) & 0xFFFFFFFF,
    }
    function = functions[op.has(*functions)]
    value, members, write = op.reader(1), op.reader(2, "b32"), op.writer()

    def execute(team, mask):
        _check_member_mask(team, mask, members(team), "redux")
        values = value(team)
        result = _per_warp(team, mask, lambda lanes: function(values[lanes]))
        write(team, result.astype(np.uint32), mask)

    return execute


@instruction("bar", "barrier")
def barrier(op):
    if op.opcode[1] == "warp":
        members = op.reader(0, "b32")
        return lambda team, mask: _check_member_mask(team, mask, members(team), "bar.warp.sync")
    if op.has("red"):
        raise Fault(f"unsupported PTX: {op.text}")
    number = op.reader(0, "u32")
    count = op.reader(1, "u32") if len(op.operands) > 1 else None
    waits = op.opcode[1] != "arrive" and not op.has("arrive")

    def execute(team, mask):
        _require_members(team, mask, np.ones(32, np.bool_), "barrier")
        expected = int(count(team)[mask][0]) if count else team.block.num_threads
        # Whole warps arrive: a barrier counts in multiples of 32.
        arriving = 32 * int(_warps(mask).any(axis=1).sum())
        team.arrive(int(number(team)[mask][0]), arriving, (expected + 31) // 32 * 32, waits)

    return execute


@instruction("cp")
def copy_async(op):
    if op.opcode[1:3] == ["async", "bulk"]:
        return copy_box(op)
    if op.opcode[1] != "async" or op.has("mbarrier"):
        raise Fault(f"unsupported PTX: {op.text}")
    if op.has("commit_group"):
        return lambda team, mask: team.commit_copies(mask)
    if op.has("wait_group"):
        pending = int(op.operands[0])
        return lambda team, mask: team.land_copies(mask, pending)
    if op.has("wait_all"):
        return lambda team, mask: team.land_copies(mask, -1)
    count = int(op.operands[2])
    if op.has("cg") and count != 16:
        raise Fault(f"cp.async.cg copies 16 bytes: {op.text}")
    destination, source = op.address(0, "u32"), op.address(1)
    size = op.reader(3, "u32") if len(op.operands) > 3 else None

    def execute(team, mask):
        sizes = size(team) if size else np.full(team.lanes, count, np.uint32)
        if (sizes[mask] > count).any():
            raise Fault(f"cp.async: source size over {count}")
        addresses, values = source(team), np.zeros((team.lanes, count), np.uint8)
        for bytes_read in np.unique(sizes[mask]):
            if bytes_read == 0:
                continue
            lanes = mask & (sizes == bytes_read)
            loaded = team.block.global_memory.load(addresses[lanes], int(bytes_read), count)
            values[lanes, : int(bytes_read)] = loaded
        team.issue_copy(destination(team), values, mask)

    return execute


_UPDATES = {
    "add": lambda old, value: old + value, "exch": lambda old, value: value,
    "min": min, "max": max,
    "and": lambda old, value: old & value, "or": lambda old, value: old | value,
}  # fmt: skip


@instruction("atom", "red")
def update_atomically(op):
    returns = op.opcode[0] == "atom"
    name = op.has("cas", *_UPDATES)
    number_type, count = NUMPY[op.type], width(op.type) // 8
    address = op.address(int(returns))
    value = op.reader(1 + returns)
    replacement = op.reader(2 + returns) if name == "cas" else None
    write = op.writer() if returns else None

    def execute(team, mask):
        memory = team.block.shared if op.has("shared") else team.block.global_memory
        addresses, values, old = address(team), value(team), np.zeros(team.lanes, number_type)
        for lane in np.flatnonzero(mask):
            at = addresses[lane : lane + 1]
            before = memory.load(at, count).view(number_type)[0, 0]
            if name == "cas":
                after = replacement(team)[lane] if before == values[lane] else before
            else:
                after = _UPDATES[name](before, values[lane])
            memory.store(at, np.array([after], number_type).view(np.uint8)[None, :])
            old[lane] = before
        if write:
            write(team, old, mask)

    return execute
