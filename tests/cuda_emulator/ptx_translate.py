"""Writes a module of PTX as C++ for the emulator: a function a kernel, a line an instruction.

A register is a variable with as many bits; ptx_runtime.h has what instructions do. Shared memory has
addresses of its own: 8 bits say which variable, 24 where in it. Generic addresses are the emulator's
pointers. What is not known here is an error of the translation, never code that does something else.
"""

from .ptx_instructions import INSTRUCTIONS
from .ptx_module import Brace, Instruction, Kernel, Module, Registers
from .ptx_operands import REGISTERS, Operands, variable


def translate(module: Module) -> str:
    """Return the C++ source of a module; it exports `ptx_kernels`, one function for each kernel in order.

    Raises:
        ValueError: an instruction is not known.
    """
    lines = ['#include "ptx_runtime.h"']
    for name, data in module.constants.items():
        lines.append(
            f"alignas(16) static const unsigned char {variable(name)}[] = {{{', '.join(map(str, data))}}};"
        )
    names = [f"kernel_{number}" for number in range(len(module.kernels))]
    lines += [_function(module, kernel, name) for kernel, name in zip(module.kernels, names, strict=True)]
    lines.append(
        'extern "C" __attribute__((visibility("default"))) const cuda_emulator::PtxFunction ptx_kernels[]'
    )
    return "\n".join([*lines, f"  = {{{', '.join(names)}}};"]) + "\n"


def _function(module: Module, kernel: Kernel, name: str) -> str:
    operands = Operands(module, kernel)
    keys = [f"{name}_shared_{index}" for index in range(len(kernel.shared))]
    bases = ["nullptr", "services->dynamic_shared()" if module.dynamic_shared else "nullptr"]
    bases += [
        f"services->static_shared(&{key}, {size})"
        for key, size in zip(keys, kernel.shared.values(), strict=True)
    ]
    lines = [f"static char {key};" for key in keys]
    lines += [
        f"static void {name}(const void* const* parameters) {{",
        f"void* const shared[] = {{{', '.join(bases)}}};",
    ]
    lines += [
        "const auto in_shared = [&](uint32_t at) { return uint64_t(shared[at >> 24]) + (at & 0xffffff); };",
        "bool found;",
    ]
    for statement in kernel.body:
        if isinstance(statement, Registers):
            lines.append(f"{REGISTERS[statement.type]} {', '.join(map(variable, statement.names))};")
        elif isinstance(statement, Instruction):
            lines.append(_instruction(operands, statement))
        else:
            lines.append(statement.text if isinstance(statement, Brace) else f"{variable(statement.name)}:;")
    return "\n".join([*lines, "}"])


def _instruction(operands: Operands, i: Instruction) -> str:
    try:
        statement = INSTRUCTIONS[i.parts[0]](operands, i)
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise ValueError(
            f"{operands.kernel.name}, line {i.line}: {i.name} {', '.join(i.operands)} is not emulated"
        ) from error
    if not i.predicate:
        return statement
    return f"if ({i.predicate.startswith('!') * '!'}{variable(i.predicate.lstrip('!'))}) {{ {statement} }}"
