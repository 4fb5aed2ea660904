"""A client that raises answers with its error."""

from fedsim.engine.reply import failed


def test_the_first_line_is_the_error_and_the_rest_says_where() -> None:
    def client() -> None:
        raise ValueError("no way")

    try:
        client()
    except ValueError as error:
        reply = failed(error)
    assert reply.content is None
    assert reply.state is None
    first, *rest = reply.error.splitlines()
    assert first == "ValueError: no way"
    assert any("in client" in line for line in rest)
