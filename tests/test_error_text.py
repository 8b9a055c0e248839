"""Errors as text on one line."""

from pipeline.error_text import named, one_line, printable, reason_of


def test_lines_are_joined_and_spaces_within_them_stay() -> None:
    error = ValueError("\n cannot read 'a  b.jpg':\r\n\tit ends early\n\n")
    assert one_line(error) == "cannot read 'a  b.jpg': it ends early"
    assert one_line(str(error)) == one_line(error)
    assert one_line(ValueError()) == ""


def test_what_drives_a_terminal_is_shown_instead() -> None:
    assert printable("\x1b]0;title\x07\x9b2J\r\x7f\u202egpj") == (
        r"\u001b]0;title\u0007\u009b2J\u000d\u007f\u202egpj"
    )
    harmless = "café 猫\tشمس\n🖼 \\x1b"
    assert printable(harmless) == harmless


def test_the_systems_words_come_without_the_path() -> None:
    assert reason_of(FileNotFoundError(2, "No such file or directory", "/a")) == (
        "No such file or directory"
    )
    assert reason_of(OSError("it ends\nearly")) == "it ends early"


def test_a_named_error_begins_with_its_type() -> None:
    assert named(ZeroDivisionError("by\nzero")) == "ZeroDivisionError: by zero"
