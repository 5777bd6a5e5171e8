"""What is read from the text of a program: turns of loops, products, traffic to memory, and what devices send.

The fragments are cut from programs of the TPU's compiler.
"""

import pytest

from medjax.hardware.program_costs import axes_of, costs_of, members_of
from medjax.hardware.program_text import parse

MESH = {"data": 2, "fsdp": 4, "tensor": 1}

# A counter that grows by two up to what enters the loop and never changes; inside a ring, and an async gather whose
# parts are in the fusions that it runs beside.
LOOP = """HloModule jit_step, is_scheduled=true

%gather_start (param_0: bf16[256,64]) -> (bf16[256,64], bf16[1024,64]) {
  %param_0 = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[1024,64]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %custom-call.1 = (bf16[256,64]{1,0}, bf16[1024,64]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%gather_part (param_0: bf16[256,64], param_1: bf16[128,64]) -> f32[128,128] {
  %param_0.1 = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.2 = bf16[1024,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.1), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %param_1 = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = f32[128,128]{1,0:T(8,128)} convolution(%param_1, %param_1), dim_labels=bf_oi->bf
}

%body (wide: (u32[], bf16[128,64], f32[256,64], u32[], bf16[256,64])) -> (u32[], bf16[128,64], f32[256,64], u32[], bf16[256,64]) {
  %wide = (u32[]{:T(128)}, bf16[128,64]{1,0}, f32[256,64]{1,0:T(8,128)S(1)}, u32[]{:T(128)}, bf16[256,64]{1,0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%wide), index=0
  %x = bf16[128,64]{1,0} get-tuple-element(%wide), index=1
  %ring = f32[256,64]{1,0:T(8,128)S(1)} get-tuple-element(%wide), index=2
  %limit = u32[]{:T(128)} get-tuple-element(%wide), index=3
  %w = bf16[256,64]{1,0} get-tuple-element(%wide), index=4
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %fusion.2 = f32[128,128]{1,0:T(8,128)} fusion(%w, %x), kind=kOutput, calls=%gather_part, backend_config={"estimated_cycles":"100"}
  %permute = (f32[256,64]{1,0:T(8,128)S(1)}, f32[256,64]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) collective-permute-start(%ring), channel_id=8, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %permuted = f32[256,64]{1,0:T(8,128)S(1)} collective-permute-done(%permute)
  ROOT %tuple.2 = (u32[]{:T(128)}, bf16[128,64]{1,0}, f32[256,64]{1,0:T(8,128)S(1)}, u32[]{:T(128)}, bf16[256,64]{1,0}) tuple(%next, %x, %permuted, %limit, %w)
}

%condition (wide.1: (u32[], bf16[128,64], f32[256,64], u32[], bf16[256,64])) -> pred[] {
  %wide.1 = (u32[]{:T(128)}, bf16[128,64]{1,0}, f32[256,64]{1,0:T(8,128)S(1)}, u32[]{:T(128)}, bf16[256,64]{1,0}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%wide.1), index=0
  %limit.1 = u32[]{:T(128)} get-tuple-element(%wide.1), index=3
  ROOT %compare.1 = pred[]{:T(512)} compare(%i.1, %limit.1), direction=LT
}

ENTRY %main (p0: bf16[128,64], p1: f32[256,64], p2: bf16[256,64]) -> f32[256,64] {
  %p0 = bf16[128,64]{1,0} parameter(0)
  %p1 = f32[256,64]{1,0} parameter(1)
  %p2 = bf16[256,64]{1,0} parameter(2)
  %zero = u32[]{:T(128)} constant(0)
  %seven = u32[]{:T(128)} constant(7)
  %fusion.1 = (bf16[256,64]{1,0}, bf16[1024,64]{1,0}) fusion(%p2), kind=kCustom, calls=%gather_start
  %tuple.1 = (u32[]{:T(128)}, bf16[128,64]{1,0}, f32[256,64]{1,0}, u32[]{:T(128)}, bf16[256,64]{1,0}) tuple(%zero, %p0, %p1, %seven, %p2)
  %while.1 = (u32[]{:T(128)}, bf16[128,64]{1,0}, f32[256,64]{1,0}, u32[]{:T(128)}, bf16[256,64]{1,0}) while(%tuple.1), condition=%condition, body=%body
  ROOT %out = f32[256,64]{1,0} get-tuple-element(%while.1), index=2
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_turns():
  program = parse(LOOP)
  loop = program.computations["main"]["while.1"]
  assert program.turns(loop, program.computations["main"]) == 4  # 0, 2, 4, 6
  costs = costs_of(program, MESH)
  assert costs.product_flops == 4 * 2 * 128 * 128 * 64
  assert costs.cycles == 400


def test_what_a_loop_sends():
  sent = {one.kind: one for one in costs_of(parse(LOOP), MESH).collectives}
  # The gather is one, though its text stands in the loop, too; a device receives three quarters of it.
  assert sent["all-gather"].count == 1 and sent["all-gather"].bytes == 1024 * 64 * 2 * 3 / 4
  assert sent["collective-permute"].count == 4 and sent["collective-permute"].bytes == 4 * 256 * 64 * 4
  assert {one.axis for one in sent.values()} == {"fsdp"}


def test_the_loop_over_microbatches_turns_as_often_as_it_is_told():
  unknown = LOOP.replace("%seven = u32[]{:T(128)} constant(7)", "%seven = u32[]{:T(128)} parameter(3)")
  assert costs_of(parse(unknown), MESH, unknown=3).cycles == 300


SCATTER = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[64,32]) -> f32[16,32] {
  %input = f32[64,32]{1,0} parameter(0)
  %all-reduce.1 = f32[64,32]{1,0} all-reduce(%input), channel_id=1, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add
  %zero = s32[] constant(0)
  %partition-id.1 = u32[] partition-id()
  ROOT %dynamic-slice.1 = f32[16,32]{1,0} dynamic-slice(%all-reduce.1, %partition-id.1, %zero), dynamic_slice_sizes={16,32}
}

ENTRY %main (p0: f32[64,32], p1: f32[8,16,32], p2: s32[]) -> f32[8,16,32] {
  %p0 = f32[64,32]{1,0} parameter(0)
  %p1 = f32[8,16,32]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %piece = f32[16,32]{1,0} fusion(%p0), kind=kCustom, calls=%all-reduce-scatter.1
  %whole = f32[64,32]{1,0} all-reduce(%p0), channel_id=2, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %kept = f32[8,16,32]{2,1,0} fusion(%p1, %piece, %p2), kind=kLoop, calls=%write
}

%write (q0: f32[8,16,32], q1: f32[16,32], q2: s32[]) -> f32[8,16,32] {
  %q0 = f32[8,16,32]{2,1,0} parameter(0)
  %q1 = f32[16,32]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %bitcast.1 = f32[1,16,32]{2,1,0} bitcast(%q1)
  %none = s32[] constant(0)
  ROOT %update = f32[8,16,32]{2,1,0} dynamic-update-slice(%q0, %bitcast.1, %q2, %none, %none)
}
"""  # noqa: E501


def test_a_sum_of_which_a_slice_is_kept_is_a_reduce_scatter():
  sent = {one.kind: (one.axis, one.bytes) for one in costs_of(parse(SCATTER), {"data": 2, "fsdp": 4}).collectives}
  assert sent == {
    "reduce-scatter": ("fsdp", 64 * 32 * 4 * 3 / 4),
    "all-reduce": ("data", 2 * 64 * 32 * 4 / 2),
  }


def test_what_is_written_in_place_costs_what_changes():
  whole, piece = 64 * 32 * 4, 16 * 32 * 4
  # Two readings of the whole, one written; a piece written, read and written in place; the scalar index.
  assert costs_of(parse(SCATTER), {"data": 2, "fsdp": 4}).memory_bytes == 3 * whole + 3 * piece + 4


@pytest.mark.parametrize(
  ("text", "members", "axes"),
  [
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, ", (0, 1, 2, 3), ["fsdp"]),
    ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, ", (0, 4), ["data"]),
    ("replica_groups=[2,4]<=[8], ", (0, 1, 2, 3), ["fsdp"]),
    ("replica_groups=[4,2]<=[2,4]T(1,0), ", (0, 4), ["data"]),
    ("replica_groups={{0,1,2,3,4,5,6,7}}, ", tuple(range(8)), ["data", "fsdp"]),
    ("replica_groups={}, ", tuple(range(8)), ["data", "fsdp"]),
    ("source_target_pairs={{0,4},{4,0},{1,5},{5,1}}, ", (0, 4), ["data"]),
  ],
)
def test_who_exchanges_with_whom(text, members, axes):
  assert members_of(text, 8) == members
  assert axes_of(members, MESH) == axes


@pytest.mark.parametrize(
  ("left", "right", "out", "rest", "flops"),
  [
    ("16,8", "8,4", "16,4", "dim_labels=bf_io->bf", 2 * 16 * 8 * 4),
    # Heads as positions of a window that is all padding but for one: [16, 8] x [4 heads, 8, 2].
    (
      "16,8,1",
      "4,2,8",
      "16,4,2",
      "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_0oi->b0f",
      2 * 16 * 8 * 4 * 2,
    ),
    # Heads that are summed over: [16, 4 heads, 2] x [4 heads, 2, 8].
    ("4,16,2", "4,2,8", "16,8,1", "window={size=4}, dim_labels=0bf_0io->bf0", 2 * 16 * 4 * 2 * 8),
  ],
)
def test_products_that_are_written_as_convolutions(left, right, out, rest, flops):
  text = f"""ENTRY %main (p0: bf16[{left}], p1: bf16[{right}]) -> bf16[{out}] {{
  %p0 = bf16[{left}] parameter(0)
  %p1 = bf16[{right}] parameter(1)
  ROOT %convolution.1 = bf16[{out}] convolution(%p0, %p1), {rest}
}}
"""
  assert costs_of(parse(text), MESH).product_flops == flops


def test_what_an_asynchronous_one_makes_stands_behind_its_operands():
  text = """ENTRY %main (p0: f32[64,32]) -> f32[16,32] {
  %p0 = f32[64,32] parameter(0)
  %start = (f32[64,32], f32[16,32]) reduce-scatter-start(%p0), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %done = f32[16,32] reduce-scatter-done(%start)
}
"""
  (one,) = costs_of(parse(text), MESH).collectives
  assert (one.kind, one.bytes) == ("reduce-scatter", 64 * 32 * 4 * 3 / 4)
