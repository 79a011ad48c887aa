"""Made prompts: they share what they are to share, and come back from the tokenizer as they were planned."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import vocabularies
from tests.naive import common_prefix
from traceprof import tokenizer as tk
from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError
from traceprof.workload import content, expected, synthesis, vocabulary
from traceprof.workload.made import Made
from traceprof.workload.synthesis import Synthesis, apart

prompts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12)


def quiet(what, done, total):
    """Nobody watches."""


def tree_of(lists, roots=None):
    return Traffic.of_lists([(one, [], 0, 0) for one in lists], roots)


def pairs(lists):
    return itertools.combinations(range(len(lists)), 2)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Tokenizers of several kinds by name, with ChatML as their template."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: tk.load(vocabularies.words_tokenizer(folder / name, name)) for name in vocabularies.KINDS}
    return {"built in": tk.load(), **found}


EACH = ["built in", *vocabularies.KINDS]


# -- what is shared ----------------------------------------------------------------------------------------------


def test_examples_in_the_docstrings_hold():
    """Of the modules that make prompts."""
    for module in (synthesis, vocabulary, content, expected):
        assert doctest.testmod(module).failed == 0


@given(prompts, st.integers(0, 5))
def test_made_prompts_share_exactly_what_the_real_ones_do(lists, seed):
    """Every pair, and every length."""
    made = Synthesis.of(tree_of(lists), tokens=1000, seed=seed)
    found = [made.prompt(i).tolist() for i in range(len(lists))]
    assert [len(one) for one in found] == [len(one) for one in lists]
    assert made.crowded == 0
    for i, j in pairs(lists):
        assert common_prefix(found[i], found[j]) == common_prefix(lists[i], lists[j])


@given(prompts, st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_made_prompts_of_different_roots_share_nothing(lists, roots):
    """As real ones of different models or salts share no cache."""
    roots = roots[: len(lists)]
    made = Synthesis.of(tree_of(lists, roots), tokens=1000, seed=0)
    found = [made.prompt(i).tolist() for i in range(len(lists))]
    for i, j in pairs(lists):
        want = common_prefix(lists[i], lists[j]) if roots[i] == roots[j] else 0
        assert common_prefix(found[i], found[j]) == want


@given(prompts, st.integers(1, 5))
def test_behind_an_opening_that_all_have_they_share_what_is_longer_than_it(lists, opening):
    """What real prompts share below its length cannot be told from it."""
    made = Synthesis.of(tree_of(lists), tokens=1000, seed=0, opening=opening)
    found = [
        [-1] * min(opening, len(lists[i])) + made.prompt(i).tolist()[opening:] for i in range(len(lists))
    ]
    for i, j in pairs(lists):
        shorter = min(opening, len(lists[i]), len(lists[j]))
        want = max(shorter, common_prefix(lists[i], lists[j]))
        assert common_prefix(found[i], found[j]) == want


@given(st.integers(2, 400), st.integers(2, 9))
def test_more_prompts_than_tokens_differ_within_a_few_tokens(n, tokens):
    """As few as can tell them apart, and it is said."""
    made = Synthesis.of(apart(np.full(n, 20)), tokens=tokens, seed=0)
    digits = next(d for d in itertools.count(1) if tokens**d >= n)
    beginnings = {tuple(made.prompt(i)[:digits].tolist()) for i in range(n)}
    assert len(beginnings) == n
    assert made.crowded == (n if digits > 1 else 0)
    assert int(made.digits.max()) == digits


@given(st.integers(1, 60), st.integers(1, 8))
def test_the_first_token_is_one_that_may_stand_first(n, firsts):
    """Whatever else there is to choose from; the next tokens tell the others apart."""
    made = Synthesis.of(apart(np.full(n, 9)), tokens=50, firsts=firsts, seed=1)
    found = [made.prompt(i).tolist() for i in range(n)]
    assert all(one[0] < firsts for one in found)
    depth = next(d for d in itertools.count(1) if firsts * 50 ** (d - 1) >= n)
    assert len({tuple(one[:depth]) for one in found}) == n


def test_fillers_stay_among_the_words():
    """Ids without a word tell branches apart, and stand nowhere else."""
    made = Synthesis.of(apart(np.full(30, 500)), tokens=1000, filler=10, seed=0)
    found = np.array([made.prompt(i) for i in range(30)])
    assert (found[:, 1:] < 10).all() and (found[:, 0] >= 10).any()


def test_another_seed_makes_other_prompts():
    """And the same one the same, in whatever order they are asked for."""
    tree = tree_of([[1, 2, 3, 4], [1, 2, 5, 6]])
    one, again, other = (Synthesis.of(tree, tokens=1000, seed=seed) for seed in (1, 1, 2))
    assert (again.prompt(1) == one.prompt(1)).all() and (again.prompt(0) == one.prompt(0)).all()
    assert (one.prompt(0) != other.prompt(0)).any()


def test_a_part_of_the_requests_keeps_its_sharing():
    """Prompts of a subset share as those of the whole do."""
    lists = [[1, 2, 3], [1, 2, 4, 5], [1, 9], [1, 2, 4, 6]]
    kept = np.array([1, 2, 3])
    made = Synthesis.of(tree_of(lists).subset(kept), tokens=1000, seed=0)
    found = [made.prompt(i).tolist() for i in range(3)]
    assert [common_prefix(found[i], found[j]) for i, j in pairs(found)] == [1, 3, 1]


# -- words of a tokenizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH)
def test_words_are_one_token_each_in_any_company(kinds, kind):
    """Random orders of them, of many lengths, in a text of their own."""
    words, frame = vocabulary.framed(kinds[kind], vocabulary.vocabulary(kinds[kind], seed=3), chat=False)
    assert words.spoken >= 100 and len(words.first_ids) >= vocabulary.FEWEST
    assert len(set(words.ids.tolist())) == len(words.ids)
    assert len(set(words.first_ids.tolist())) == len(words.first_ids)
    dice = np.random.default_rng(1)
    for length in (1, 2, 3, 50, 400):
        numbers = dice.integers(0, words.spoken, length)
        numbers[0] = dice.integers(0, len(words.first_ids))
        got = kinds[kind].encode([frame.anchor + words.text(numbers)], add_special_tokens=True).ids
        assert got.tolist() == [*frame.opening, *words.tokens(numbers), *frame.closing]


@pytest.mark.parametrize("kind", EACH)
def test_no_completion_begins_with_a_space(kinds, kind):
    """Which some servers strip."""
    words, frame = vocabulary.framed(kinds[kind], vocabulary.vocabulary(kinds[kind], seed=0), chat=False)
    assert frame.anchor == "" and not any(word[0] == " " for word in words.first_words)


def test_for_ids_all_ordinary_tokens_serve(kinds):
    """More than have a word, none of them twice, none that marks something."""
    tokenizer = kinds["built in"]
    words = vocabulary.vocabulary(tokenizer, seed=0, unspoken=True)
    assert len(words.ids) > 2 * words.spoken
    assert len(set(words.ids.tolist())) == len(words.ids)
    shown = [tokenizer.decode([one]).strip() for one in words.ids[-2000:]]
    assert not any(one.startswith("<") and one.endswith(">") for one in shown)


def test_a_tokenizer_with_few_words_says_what_to_do():
    """One line, with the remedy."""
    few = tk.Tokenizer("few", _letters().to_str().encode(), tk.ChatTemplate("{{ messages }}"), {}, exact=True)
    with pytest.raises(TraceprofError, match=r"only 0 words of the tokenizer few.*give the --tokenizer"):
        vocabulary.vocabulary(few, seed=0)


def _letters():
    import tokenizers

    return tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate("abc ")}, []))


def test_a_template_that_strips_texts_changes_nothing(tmp_path):
    """A prompt has no space around it."""
    trimming = tk.load(vocabularies.words_tokenizer(tmp_path, template=vocabularies.TRIMMED))
    check(trimming, tree_of([[1, 2, 3] * 9, [1, 2, 4] * 9]), chat=True)


def test_a_template_that_changes_every_text_is_told(tmp_path):
    """Before anything is made."""
    loud = tk.load(vocabularies.words_tokenizer(tmp_path, template=vocabularies.LOUD))
    with pytest.raises(TraceprofError, match="changes every text"):
        Made.of(loud, apart(np.full(3, 9)), spoken=True, chat=True, seed=0)


# -- prompts -----------------------------------------------------------------------------------------------------


def check(tokenizer, tree, *, chat):
    """Prompts of text, as an engine's own tokenizer reads them: (ids of each, Made, what they really share)."""
    made = Made.of(tokenizer, tree, spoken=True, chat=chat, seed=0)
    columns = made.columns(slice(0, tree.requests))
    nothing = [None] * tree.requests
    messages = columns["messages_json"].to_pylist() if chat else nothing
    texts = nothing if chat else columns["prompt_text"].to_pylist()
    got = tk.encode_requests(tokenizer, messages, None, texts).input
    ids = [got.ids[a:b].tolist() for a, b in itertools.pairwise(got.offsets)]
    assert set(columns["endpoint"].to_pylist()) == {"chat" if chat else "completions"}
    traffic = made.traffic(np.zeros(tree.requests, np.int64), quiet)
    assert [len(one) for one in ids] == traffic.prompt.tolist()
    shared = [max((common_prefix(ids[i], ids[j]) for j in range(i)), default=0) for i in range(len(ids))]
    assert traffic.shared()[1].tolist() == shared
    return ids, made, traffic


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
@pytest.mark.parametrize("kind", EACH)
def test_text_comes_back_as_long_as_planned_and_shares_as_planned(kinds, kind, chat):
    """With what the tokenizer and the template put around it; lengths from shorter than that on."""
    dice = np.random.default_rng(0)
    lists = [dice.integers(0, 3, length).tolist() for length in (1, 2, 5, 8, 30, 31, 31, 64, 200, 200)]
    lists += [lists[-1][:150] + [7] * 20, lists[-1], lists[-1]]
    ids, made, _ = check(kinds[kind], tree_of(lists), chat=chat)
    around = made.frame.tokens
    assert [len(one) for one in ids] == [max(len(one), around + 1) for one in lists]
    long = [i for i in range(len(lists)) if len(lists[i]) > around]
    behind, before = len(made.frame.closing), len(made.frame.opening)
    for i, j in itertools.combinations(long, 2):
        want = max(common_prefix(lists[i], lists[j]), before)
        got = common_prefix(ids[i], ids[j])
        # where one prompt goes on behind another's end, what closes that one is in the way
        assert got == want or want - behind <= got < want


@settings(max_examples=6)
@given(prompts=prompts)
def test_text_of_any_tree_comes_back_as_planned(kinds, prompts):
    """The built-in tokenizer puts nothing around a completion, so it is exact: lengths, and what every pair shares."""
    ids, made, _ = check(kinds["built in"], tree_of(prompts), chat=False)
    assert made.frame.tokens == 0 and made.notes(made.lengths) == []
    assert [len(one) for one in ids] == [len(one) for one in prompts]
    for i, j in pairs(prompts):
        assert common_prefix(ids[i], ids[j]) == common_prefix(prompts[i], prompts[j])


@pytest.mark.parametrize("kind", EACH)
def test_unique_prompts_differ_from_the_first_token_on(kinds, kind):
    """Behind what the tokenizer puts before every text, as long as its words last; and it is said where they do not."""
    made = Made.of(kinds[kind], apart(np.full(100, 40)), spoken=True, chat=False, seed=0)
    traffic = made.traffic(np.zeros(100, np.int64), quiet)
    before = len(made.frame.opening)
    assert traffic.shared()[1].tolist() == [0] + [before] * 99
    many = Made.of(kinds["framed"], apart(np.full(5000, 40)), spoken=True, chat=False, seed=0)
    assert many.traffic(np.zeros(5000, np.int64), quiet).shared()[1].max() == 2
    assert any("not in the first" in note for note in many.notes(many.lengths))


def test_ids_are_sent_as_planned(kinds):
    """No text, nothing around them, and no two begin with the same token while there are tokens."""
    made = Made.of(kinds["built in"], apart(np.full(60_000, 3)), spoken=False, chat=False, seed=0)
    columns = made.columns(slice(0, 60_000))
    ids = columns["prompt_ids"].to_pylist()
    assert "prompt_text" not in columns and set(map(len, ids)) == {3}
    assert len({one[0] for one in ids}) == 60_000
    assert set(columns["endpoint"].to_pylist()) == {"ids"}


def test_prompts_shorter_than_what_stands_around_them_are_counted(kinds):
    """They are as short as they can be."""
    made = Made.of(kinds["built in"], apart(np.array([1, 2, 3, 4, 5])), spoken=True, chat=True, seed=0)
    real = made.traffic(np.zeros(5, np.int64), quiet).prompt
    assert real.tolist() == [4, 4, 4, 4, 5]
    assert any(note.startswith("3 prompts are longer") for note in made.notes(real))
