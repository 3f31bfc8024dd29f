import pytest

from jaxevo.rewards.novelty import copied, skeleton_ratio, text_ratio, word_overlap


def test_text_ratio_is_that_of_matching_characters():
    # "12+" and "=" match: 2 M / T = 2 * 4 / (5 + 6)
    assert text_ratio("12+3=", "12+45=") == pytest.approx(8 / 11)
    assert text_ratio("What  is\n2+2?", "what is 2+2") == 1.0  # case, white space, dropped signs
    assert text_ratio("abc", "xyz") == 0.0


def test_skeletons_forget_numbers_and_names():
    assert skeleton_ratio(r"Solve $x^2 + 3 = 7$.", r"Find all roots: \(y^2+15=8\)") == 1.0
    assert skeleton_ratio(r"$\alpha + 1$", "$b + 22$") == 1.0
    assert skeleton_ratio("12+34=", "5+6=") == 1.0  # without mathematics the whole text
    # V^N+V against V^N-V: four of five characters match
    assert skeleton_ratio("$x^2+y$", "$x^2-y$") == pytest.approx(0.8)
    assert skeleton_ratio(r"$\sin x$", r"$\cos x$") < 1.0  # commands are no variables


def test_word_overlap_is_jaccard_without_stop_words():
    # {sum, 2, +, 5} and {sum, 3, +, 5}: the rest are stop-words
    assert word_overlap("Find the sum of 2+5", "Compute the sum of 3+5") == pytest.approx(3 / 5)
    assert word_overlap("find the", "2+5") == 0.0


def test_short_texts_are_never_copies():
    assert copied("7+8=", "7+8=") == 0.0
    assert copied("17+8=", "17+8=") == 1.0


@pytest.mark.parametrize(
    ("length", "threshold"), [(99, 0.88), (150, 0.78), (300, 0.68), (500, 0.60)]
)
def test_the_text_threshold_falls_with_the_length(length, threshold):
    # Characters that occur once (difflib takes none that is frequent in a long text for a match).
    left = "".join(map(chr, range(0x4E00, 0x4E00 + length)))
    for share, near in ((threshold + 0.02, True), (threshold - 0.02, False)):
        same = round(share * length)
        right = left[:same] + "".join(map(chr, range(0x6000, 0x6000 + length - same)))
        assert text_ratio(left, right) == pytest.approx(same / length)
        assert copied(left, right) == (text_ratio(left, right) if near else 0.0)


def test_an_equal_form_counts_only_beside_some_likeness_of_the_text():
    left, right = "12+34=", "12+35="  # same skeleton, τ = 10/12 is under 0.88 but above 0.45
    assert copied(left, right) == 1.0
    # same skeleton, nothing else: no common word but the signs, τ = 4/12
    assert text_ratio("12+34=", "56+78=") == pytest.approx(4 / 12)
    assert word_overlap("12+34=", "56+78=") == pytest.approx(2 / 6)
    assert copied("12+34=", "56+78=") == 0.0
    assert copied("12+34=", "12*34*5=") == 0.0  # another skeleton
