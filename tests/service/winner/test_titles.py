from tests.service.winner.asking import invoke


def test_titles_begin_as_asked_and_repeat_with_their_seed(finished):
    call = ("generate", "tiny", "--prompt", "the old", "--number", 4)
    first = invoke(finished, *call).stdout.splitlines()
    assert len(first) == 4
    assert all(title.startswith("the old") for title in first)
    assert invoke(finished, *call).stdout.splitlines() == first
    assert invoke(finished, *call, "--seed", 2).stdout.splitlines()[:2] == first[2:]
    cold = invoke(finished, *call, "--temperature", "0.0001").stdout.splitlines()
    assert len(set(cold)) == 1
