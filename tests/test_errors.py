import pickle

from aepsl.errors import AepslError, FaultList


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
