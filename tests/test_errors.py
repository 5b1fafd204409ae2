import pickle

from aepsl.errors import AepslError, FaultList, printable, shown


def test_every_fault_has_a_line_under_the_heading():
    assert str(FaultList("two faults; mend them", ["a: wrong", "b: missing"])) == "two faults; mend them\n  - a: wrong\n  - b: missing"


def test_faults_beyond_what_is_shown_are_counted_and_kept():
    error = FaultList("many", [f"f{number}" for number in range(5)], shown=2)
    assert str(error) == "many\n  - f0\n  - f1\n  … and 3 more"
    assert error.faults == ["f0", "f1", "f2", "f3", "f4"]
    assert isinstance(error, AepslError)


def test_a_fault_list_survives_the_way_out_of_a_worker_process():
    error = pickle.loads(pickle.dumps(FaultList("many", ["a", "b", "c"], shown=1)))
    assert (str(error), error.faults) == ("many\n  - a\n  … and 2 more", ["a", "b", "c"])


def test_a_message_shows_no_control_characters_and_forges_no_line():
    told = str(FaultList("\x1b[2Jmend them", ["a\nb: fine", "c\ud800 \u202eevil"]))
    assert told == "\\x1b[2Jmend them\n  - a\\nb: fine\n  - c\\ud800 \\u202eevil"
    assert str(AepslError(str(AepslError("\x07 é")))) == "\\x07 é"


def test_long_lines_and_values_are_cut():
    assert str(AepslError("x" * 10_000)) == "x" * 2000 + " … (10000 characters)"
    assert shown(["x" * 10_000], 20) == "['xxxxxxxxxxxxxxxxxx … (10004 characters)"
    assert shown(10**5000) == "int that is too large to be shown"
    assert printable("größe") == "größe"
