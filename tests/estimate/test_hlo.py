"""Reading a program's text: shapes, operands, attributes, and lines that go on."""

from babeldraw.estimate.hlo import Array, parse_program

TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "step.py"

%wrapped (p: bf16[8,128]) -> bf16[8,128] {
  ROOT %p = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
}

ENTRY %main (x: bf16[8,128], n: s32[]) -> (bf16[8,128], f32[]) {
  %n = s32[] parameter(1)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %copy-start = (bf16[8,128]{1,0:T(8,128)(2,1)S(3)}, bf16[8,128]{1,0}, u32[]{:S(2)}) copy-start(%x)
  %kernel.1 = (f32[8,64]{1,0:T(8,128)}, s4[3]{0}) custom-call(%x, /*index=1*/%n), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"note":"{\\"block\\": 512}"
}}, metadata={op_name="jit(step)/kernel" stack_frame_id=3}
  %fusion.7 = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%wrapped, backend_config={"window_config":{"estimated_cycles":"1234"}}
  %half = f32[] constant(0.5)
  ROOT %tuple = (bf16[8,128]{1,0}, f32[]) tuple(%fusion.7, %half)
}
"""  # noqa: E501


def test_instructions_stand_in_order_with_what_they_read():
    program = parse_program(TEXT)
    assert program.entry == "main" and set(program.computations) == {"wrapped", "main"}
    main = program.computations["main"]
    assert list(main.instructions) == [
        "n", "x", "copy-start", "kernel.1", "fusion.7", "half", "tuple",
    ]  # fmt: skip
    assert main.root.name == "tuple" and main.root.operands == ("fusion.7", "half")
    assert [p.name for p in main.parameters] == ["x", "n"]
    assert [user.name for user in main.users["x"]] == ["copy-start", "kernel.1", "fusion.7"]


def test_shapes_carry_bytes_and_the_memory_they_lie_in():
    main = parse_program(TEXT).computations["main"].instructions
    assert main["copy-start"].arrays == (
        Array("bf16", (8, 128), 3),
        Array("bf16", (8, 128), 0),
        Array("u32", (), 2),
    )
    assert main["x"].bytes == 2 * 8 * 128
    # Four bits each, in whole bytes.
    assert main["kernel.1"].arrays[1].bytes == 2


def test_attributes_are_found_on_lines_that_go_on():
    main = parse_program(TEXT).computations["main"].instructions
    assert main["kernel.1"].operands == ("x", "n")
    assert main["kernel.1"].source == "jit(step)/kernel" and main["kernel.1"].cycles is None
    assert main["fusion.7"].cycles == 1234 and main["fusion.7"].called == {"calls": ("wrapped",)}
    assert main["half"].literal == "0.5" and main["half"].source == ""


def test_a_text_without_a_program_has_none():
    program = parse_program("nothing of the kind\n")
    assert program.entry is None and not program.computations
