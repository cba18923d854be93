"""The translation of PTX that test_cuda_*.py and test_triton.py trust: each instruction as NVIDIA's manual
has it, faults reported.
"""

import ctypes

import pytest
import torch

from cuda_emulator import Library
from cuda_emulator.ptx_library import PtxLibrary, missing_tool
from cuda_emulator.ptx_module import parse, plain_names, without_target
from cuda_emulator.ptx_translate import translate

KERNEL = """
.version 8.7
.target {target}
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry {name}(
    .param .u64 {name}_param_0,
    .param .u32 {name}_param_1
)
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<99>;
    .reg .f32 %f<9>;
    .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [{name}_param_0];
    ld.param.u32 %r9, [{name}_param_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
{body}
    ret;
}}
"""
# the instruction that gives %r2 of %r1 = 0 (the only thread) -> its 32 bits
RESULTS = {
    "shl.b32 %r2, 1, 32;": 0,
    "mov.b32 %r3, -8; shr.s32 %r2, %r3, 40;": 0xFFFFFFFF,
    "mov.b32 %r3, -8; shr.u32 %r2, %r3, 1;": 0x7FFFFFFC,
    "mov.b32 %r3, -7; div.s32 %r2, %r3, 2;": 0xFFFFFFFD,
    "mov.b32 %r3, -7; rem.s32 %r2, %r3, 2;": 0xFFFFFFFF,
    "mov.b32 %r3, -2; mul.hi.s32 %r2, %r3, 3;": 0xFFFFFFFF,
    "mov.b32 %r3, -2; mul.hi.u32 %r2, %r3, 3;": 2,
    "mov.b32 %r3, 0x7fffffff; mad.lo.s32 %r2, %r3, 2, 5;": 3,
    "mov.b32 %r3, 0x12345678; bfe.u32 %r2, %r3, 8, 8;": 0x56,
    "mov.b32 %r3, 0x0000f000; bfe.s32 %r2, %r3, 12, 4;": 0xFFFFFFFF,
    "mov.b32 %r3, 0x33221100; mov.b32 %r4, 0x77665544; prmt.b32 %r2, %r3, %r4, 0x5410;": 0x55441100,
    "mov.b32 %r3, 0x80000001; shf.l.wrap.b32 %r2, %r3, %r3, 4;": 0x00000018,
    "mov.b32 %r3, 12; mov.b32 %r4, 10; mov.b32 %r5, 6; lop3.b32 %r2, %r3, %r4, %r5, 0x96;": 12 ^ 10 ^ 6,
    "mov.b32 %r3, 0xff00; cvt.u16.u32 %rs1, %r3; cvt.s32.s16 %r2, %rs1;": 0xFFFFFF00,
    "mov.f32 %f1, 0f7FC00000; mov.f32 %f2, 0f3F800000; min.f32 %f3, %f1, %f2; mov.b32 %r2, %f3;": 0x3F800000,
    "mov.f32 %f1, 0f7FC00000; mov.f32 %f2, 0f3F800000; max.NaN.f32 %f3, %f1, %f2; mov.b32 %r2, "
    "%f3;": 0x7FFFFFFF,
    "mov.f32 %f1, 0f7FC00000; setp.ne.f32 %p1, %f1, %f1; selp.b32 %r2, 1, 0, %p1;": 0,
    "mov.f32 %f1, 0f7FC00000; setp.neu.f32 %p1, %f1, %f1; selp.b32 %r2, 1, 0, %p1;": 1,
    "mov.f32 %f1, 0f7FC00000; setp.leu.f32 %p1, %f1, 0f00000000; selp.b32 %r2, 1, 0, %p1;": 1,
    "mov.f32 %f1, 0f50000000; cvt.rzi.s32.f32 %r2, %f1;": 0x7FFFFFFF,  # 2^33
    "mov.f32 %f1, 0f40200000; cvt.rni.s32.f32 %r2, %f1;": 2,  # 2.5
    "mov.f32 %f1, 0fBFC00000; cvt.rmi.f32.f32 %f2, %f1; mov.b32 %r2, %f2;": 0xC0000000,  # floor(-1.5)
    # ties to even
    "mov.f32 %f1, 0f3F808000; mov.f32 %f2, 0f3F818000; cvt.rn.bf16x2.f32 %r2, %f2, %f1;": 0x3F823F80,
    "mov.b32 %r3, 0x3f803f80; mov.b32 %r4, 0x40003f80; fma.rn.bf16x2 %r2, %r3, %r4, %r3;": 0x40404000,
    "setp.eq.s32 %p1, %r1, 0; mov.b32 %r2, 5; @%p1 bra $L{i}; mov.b32 %r2, 6; $L{i}: @!%p1 mov.b32 %r2, "
    "7;": 5,
}


def kernel(body, name="kernel", target="sm_90"):
    return KERNEL.format(name=name, body=body, target=target)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    if missing_tool() is not None:
        pytest.skip(missing_tool())
    return Library("ptx", tmp_path_factory.mktemp("ptx"))


@pytest.fixture
def run(emulator, tmp_path):
    """Run a kernel of n threads, and return 32 bits of each."""
    emulator.on("sm_90")

    def launch(library, name="kernel", threads=1, shared=0):
        library.attach(emulator.functions.cuda_emulator_ptx_services())
        out = emulator.empty(torch.empty(threads), 4)
        numbers = ctypes.c_uint64(out.data_ptr()), ctypes.c_uint32(0)
        addresses = (ctypes.c_void_p * 2)(*map(ctypes.addressof, numbers))
        grid = (ctypes.c_int64 * 3)(1, 1, 1)
        emulator.call(
            "cuda_emulator_launch_ptx",
            ctypes.c_void_p(library.functions[name]),
            grid,
            threads,
            shared,
            addresses,
        )
        return [value & 0xFFFFFFFF for value in out.view(torch.int32).tolist()]

    yield launch
    emulator.free()


def test_instructions_match_manual(run, tmp_path):
    texts = [
        kernel(body.replace("{i}", str(i)) + "\nst.global.u32 [%rd3], %r2;", f"k{i}")
        for i, body in enumerate(RESULTS)
    ]
    header = texts[0][: texts[0].index(".visible")]
    library = PtxLibrary(header + "\n".join(text[text.index(".visible") :] for text in texts), tmp_path)
    results = {body: run(library, f"k{i}")[0] for i, body in enumerate(RESULTS)}
    assert results == RESULTS


EXCHANGE = """
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, dynamic;
    add.s32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    {barrier}
    xor.b32 %r5, %r2, 252;
    add.s32 %r6, %r3, %r5;
    ld.shared.u32 %r7, [%r6];
    st.global.u32 [%rd3], %r7;
"""


def test_missing_barrier_is_detected(run, tmp_path):
    whole = PtxLibrary(kernel(EXCHANGE.format(barrier="bar.sync 0;")), tmp_path)
    broken = PtxLibrary(kernel(EXCHANGE.format(barrier="")), tmp_path)
    expected = list(range(63, -1, -1))
    assert run(whole, threads=64, shared=256) == expected
    assert run(broken, threads=64, shared=256) != expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("st.global.u32 [%rd3+8], %r1;", "outside of its buffer"),
        ("ld.global.v2.u32 {%r2, %r3}, [%rd3+-4];", "misaligned"),
        ("setp.eq.s32 %p1, %r1, 3; @%p1 bra $L1;\nbar.sync 0;\n$L1:", "waits for ever"),
        (
            "setp.lt.s32 %p1, %r1, 2; @%p1 bra $L1;\nbar.sync 0;\nbra $L2;\n$L1:\nbar.sync 0;\n$L2:",
            "is at __syncthreads",
        ),
    ],
)
def test_faults_are_reported(run, tmp_path, body, message):
    with pytest.raises(RuntimeError, match=message):
        run(PtxLibrary(kernel(body), tmp_path), threads=32)


@pytest.mark.parametrize(
    "body", ["brkpt;", "bar.sync 1, 32;", "mad.hi.s32 %r2, %r1, %r1, %r1;", "cvt.sat.f32.f32 %f1, %f2;"]
)
def test_unknown_instruction_is_rejected(body):
    with pytest.raises(ValueError, match=r"kernel, line \d+: .* is not emulated"):
        translate(parse(kernel(body)))


def test_comparison_ignores_architecture_names():
    first = (
        ".target sm_80\n"
        ".entry _ZN11talkinghead51_GLOBAL__N__f51cd8e5_13_adain_cuda_cu_06b91447_96286kernelE()"
    )
    second = (
        ".target sm_90\n"
        ".entry _ZN11talkinghead52_GLOBAL__N__f51cd8e5_13_adain_cuda_cu_06b91447_100096kernelE()"
    )
    assert without_target(first) == without_target(second)
    assert plain_names(first).endswith("_ZN11talkinghead12_GLOBAL__N_16kernelE()")
    assert parse(kernel("", target="sm_90a")).version == 90
