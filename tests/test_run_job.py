"""What ends a job: an exit code, and one line where it failed."""

import pytest
import torch

from jobs.pool import ClusterError
from jobs.run_job import output_on_disk, run_job
from pipeline.output import OutputError
from pipeline.stores.errors import AccessError, StoreError


class OwnError(RuntimeError):
    """As one job raises."""


def failing(error: BaseException, own: type[Exception] = OwnError) -> int:
    """The exit code of a job that the error ends."""

    def job() -> int:
        raise error

    return run_job("afd test", job, errors=(own,), continued="; and so on")


def test_the_jobs_own_exit_code_is_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert [run_job("afd test", lambda code=code: code) for code in (0, 1)] == [0, 1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), OutputError("no"), StoreError("no"), OSError("no"), OwnError("no\n  ")],
)
def test_what_the_user_can_mend_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == 1
    assert capsys.readouterr() == ("", "afd test: no\n")


def test_what_the_system_says_of_an_output_says_which_one_it_is() -> None:
    wanted = r"^cannot go on with the output /out: no; the same command continues the run$"
    with pytest.raises(OSError, match=wanted), output_on_disk("/out"):
        raise OSError("no")
    for error in (StoreError("no"), OutputError("no")):  # of the input; or worded already
        with pytest.raises(type(error), match=r"^no$"), output_on_disk("/out"):
            raise error


@pytest.mark.parametrize("error", [AccessError("no"), ClusterError("no")])
def test_where_the_job_may_go_on_it_says_so(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == 1
    assert capsys.readouterr() == ("", "afd test: no; and so on\n")


def test_a_job_may_have_such_an_error_say_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise ClusterError("no")

    assert run_job("afd test", job, errors=(ClusterError,), continued="; and so on") == 1
    assert capsys.readouterr().err == "afd test: no\n"


def test_an_interrupt_is_no_failure_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt()) == 1
    assert capsys.readouterr().err == "afd test: interrupted; and so on\n"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyError("no")])
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        failing(error)


@pytest.mark.parametrize("own", [OwnError, RuntimeError])
def test_a_batch_that_does_not_fit_into_the_gpus_memory_says_what_to_do(
    own: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a job words its own RuntimeErrors, of which PyTorch's is one."""
    reason = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9 GiB."
    assert failing(torch.OutOfMemoryError(reason), own) == 1
    said = "afd test: CUDA out of memory: use a smaller --batch-size; and so on\n"
    assert capsys.readouterr().err == said
    no_memory = torch.OutOfMemoryError(reason)

    def job() -> int:
        raise no_memory

    assert run_job("afd test", job, out_of_memory="use --device cpu") == 1
    assert capsys.readouterr().err == "afd test: CUDA out of memory: use --device cpu\n"
