"""The command line at its edges: outputs that cannot be written, odd tables, all kinds of classes, what info tells."""

import io
import json
import os

import numpy as np
import pandas as pd
import pytest
from test_cli import SMALL, call, flowers, train

from cymlp import MLP, commands


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in: files go where the command was called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(*arguments):
    """The message of a command that ends with exit code 1: one line, and nothing on stdout."""
    result = call(*arguments, code=1)
    assert result.stdout == ""
    *notes, message = result.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert message.startswith("error: ")
    return message.removeprefix("error: ")


# ---- Outputs ----


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test where data are read or a model is made."""

    def work(*_, **__):
        raise AssertionError("work was done before the outputs were checked")

    for name in ("load_data", "run", "_load_model"):
        monkeypatch.setattr(commands, name, work)


LONG = "a" * 250


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "/proc/m.safetensors"], "--output: cannot write '/proc/m.safetensors': "),
        (["--plot", "/proc/m.png"], "--plot: cannot write '/proc/m.png': "),
        (["-o", f"{LONG}.safetensors"], f"--output: cannot write '{LONG}.safetensors': File name too long"),
        (["--plot", f"{LONG}-curves.png"], f"--plot: cannot write '{LONG}-curves.png': File name too long"),
        (["-o", "sub.safetensors"], "--output: 'sub.safetensors' is a folder"),
        (["--plot", "sub.png"], "--plot: 'sub.png' is a folder"),
        (["-o", "file/m.safetensors"], "--output: there is no folder 'file'"),
        (["-o", "broken.safetensors"], "--output: there is no folder "),
        (["-o", "loop.safetensors"], "--output: cannot write 'loop.safetensors': Too many levels"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_outputs_that_cannot_be_written_are_found_before_any_work(folder, arguments, message):
    for name in ("sub.safetensors", "sub.png"):
        (folder / name).mkdir()
    (folder / "file").touch()
    os.symlink("nowhere/m.safetensors", "broken.safetensors")
    os.symlink("loop.safetensors", "loop.safetensors")
    before = set(folder.iterdir())
    assert failure("train", "digits", *arguments).startswith(message)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("output", ["/proc/a.csv", "sub.csv"])
@pytest.mark.usefixtures("no_work")
def test_predictions_that_cannot_be_written_are_found_before_any_work(folder, output):
    (folder / "sub.csv").mkdir()
    assert failure("predict", "model.safetensors", "a.csv", "-o", output).startswith("--output: ")


def test_checks_leave_no_trace_and_existing_files_are_replaced(folder):
    (folder / "old.safetensors").write_text("old")
    (folder / "target").mkdir()
    os.symlink("target/new.safetensors", "link.safetensors")
    figures = train("digits", *SMALL, "-o", "old.safetensors")
    train("digits", *SMALL, "-o", "link.safetensors")
    assert figures["model"] == "old.safetensors"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == sorted(
        ["link.safetensors", "old.safetensors", "target", "target/new.safetensors"]
    )
    assert np.array_equal(MLP.load("old.safetensors").parameters, MLP.load("target/new.safetensors").parameters)


# ---- Arguments ----


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seed", 2**32], ["--seed", "4294967295"]),
        (["--layers", "99999999999999999999"], ["--layers", "2147483647"]),
        (["--layers", "8," + "9" * 5000], ["--layers"]),
        (["--batch-size", "99999999999999999999"], ["--batch-size", "2147483647"]),
    ],
)
def test_numbers_that_are_too_large_are_told_by_option(arguments, told):
    message = call("train", "digits", *arguments, code=2).stderr
    assert all(part in message for part in told)


def test_the_largest_seed():
    assert train("digits", *SMALL, "--seed", 2**32 - 1)["seed"] == 2**32 - 1


@pytest.mark.parametrize("data", [".", "..", "", "sub.csv"])
def test_folders_as_data(folder, data):
    (folder / "sub.csv").mkdir()
    message = f"{data or '.'!r} is a folder; give a file that ends in .csv, .tsv, .parquet, .npz"
    assert failure("train", data, "--target", "y") == message


def test_names_with_commas_can_be_ignored():
    table = flowers().rename(columns={"id": "id, old", "width": "w"})
    table.to_csv("a.csv", index=False)
    train("a.csv", "--target", "species", "--ignore", '"id, old", w,', *SMALL)
    encoder = json.loads(call("info", "a.safetensors", "--json").stdout)["encoder"]
    assert [feature["name"] for feature in encoder["features"]] == ["color"]


# ---- Tables ----

N = 60


def csv(row, header="a,t"):
    with open("a.csv", "w", encoding="utf-8", newline="") as file:
        file.write(f"{header}\n" + "".join(f"{row(i)}\n" for i in range(N)))


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("a,t,t", lambda i: f"{i},{i},{i}", "cannot read a.csv: column names must differ; these are repeated: t"),
        ("a,t", lambda i: f"{i},{'' if i == 3 else i % 2}", "missing values in 1 column(s): t (1); rows without a"),
        ("a,t", lambda i: f"{i},{'' if i == 3 else 'xy'[i % 2]}", "missing values in 1 column(s): t (1); rows without"),
        ("a,t", lambda i: f"{i},", "missing values in 1 column(s): t (60); rows without a target cannot be used"),
        ("a,t", lambda i: f"{i},rose", "target 't' must have at least two distinct values; all are 'rose'"),
        ("a,t", lambda i: f"{i},2.5", "target 't' must have at least two distinct values; all are 2.5"),
        ("a,b,t", lambda i: f"{i},,{i % 2}", "1 column(s) have no values: b; leave them out (--ignore)"),
        ("a,t", lambda i: f"{'inf' if i == 3 else i},{i % 2}", "infinite values in 1 column(s): a (1)"),
        ("a,t", lambda i: f"{i},{'-inf' if i == 3 else i / 2}", "infinite values in 1 column(s): t (1)"),
        ("a;t", lambda i: f"{i},5;{i}.5", "cannot read a.csv: numbers must have decimal commas or decimal points"),
        ("a;t", lambda i: f"{i}{',.'[i % 2]}5;{i}", "cannot read a.csv: column 'a' holds numbers such as"),
        ("t", lambda i: f"{i}", "table must have a column beside the target 't'"),
    ],
)
@pytest.mark.parametrize("missing", ["error", "impute"])
def test_tables_that_cannot_be_learned_from(header, row, message, missing):
    csv(row, header)
    told = failure("train", "a.csv", "--target", "t", "--missing", missing, "--quiet", *SMALL)
    assert told.startswith(message)
    assert "impute" not in told


@pytest.mark.parametrize("rows", [[], ["1,2"], ["1,2", "3,4"]])
def test_tables_with_too_few_rows(folder, rows):
    (folder / "a.csv").write_text("\n".join(["a,t", *rows]))
    told = failure("train", "a.csv", "--target", "t", "--quiet")
    assert ("too few" if rows else "a.csv has no rows to learn from") in told


@pytest.mark.parametrize(
    ("header", "row", "note"),
    [
        ("a,b,t", lambda i: f"{i},name {i},{i % 2}", "column 'b' has 42 categories in 42 rows: names or free text"),
        ("a,b,t", lambda i: f"{i},{i if i else 'x'},{i % 2}", "column 'b' is read as categories, as 1 of its 60 value"),
        ("a,b,t", lambda i: f"{i},2024-01-{i % 9 + 1:02},{i % 2}", "column 'b' holds dates, read as categories"),
        (",a,t", lambda i: f"{i},{i},{i % 2}", "a column without a name is called 'Unnamed: 0'"),
        ("a;b;t", lambda i: f"{i},5;1.{i:03},5;{i % 2}", "decimal commas in 2 column(s): a, b"),
    ],
)
def test_columns_that_may_not_be_what_they_seem_are_noted(header, row, note):
    csv(row, header)
    assert any(told.startswith(note) for told in train("a.csv", "--target", "t", *SMALL)["notes"])


def test_a_column_of_identifiers_is_refused_with_a_way_out(folder):
    (folder / "a.csv").write_text("a,b,t\n" + "".join(f"{i},name {i},{i % 2}\n" for i in range(1500)))
    message = failure("train", "a.csv", "--target", "t", "--quiet", *SMALL)
    assert message.startswith("column 'b' must have at most 1000 categories; got 1050 in 1050 rows")
    assert message.endswith("leave it out (--ignore)")
    train("a.csv", "--target", "t", "--ignore", "b", *SMALL)


def test_columns_that_are_constant_or_unusual_are_learned_from(folder):
    csv(lambda i: f'{i},3,"x\ny{i % 2}",{"αβ"[i % 2]},{"猫犬"[i % 2]}', '\ufeff a ,größe,"b\nc",ζ,"$x_{ 目標"')
    figures = train("a.csv", "--target", "$x_{ 目標", "--layers", 8, "--epochs", 40)
    assert figures["test_accuracy"] == 1
    assert figures["notes"] == []
    assert (folder / "a-curves.png").exists()
    predicted = call("predict", "a.safetensors", "a.csv", "--proba").stdout
    assert predicted.startswith("$x_{ 目標,proba_犬,proba_猫\n猫,")
    for told in ("'$x_{ 目標'", "b c", "one-hot: x y0, x y1"):
        assert told in call("info", "a.safetensors").stdout


def test_decimal_commas_from_training_to_prediction():
    csv(lambda i: f"{i // 10},{i % 10};{2 * i},5", "a;t")
    figures = train("a.csv", "--target", "t", "--ignore", "", *SMALL)
    assert figures["task"] == "regression"
    assert json.loads(call("info", "a.safetensors", "--json").stdout)["encoder"]["features"][0]["kind"] == "numeric"
    with open("points.csv", "w", encoding="utf-8") as file:
        file.write("a\n" + "".join(f"{i // 10}.{i % 10}\n" for i in range(N)))
    result = call("predict", "a.safetensors", "a.csv")
    assert result.stderr == "note: decimal commas in 1 column(s): a\n"
    assert result.stdout == call("predict", "a.safetensors", "points.csv").stdout


# ---- Classes and models ----


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [([7, 10], "int64"), (["07", "rose"], "str"), ([False, True], "bool"), ([0.5, 1.5], "float64")],
)
def test_classes_come_back_in_their_own_type(classes, dtype):
    rng = np.random.default_rng(2)
    number = rng.integers(0, 2, 80)
    table = pd.DataFrame({"a": 4.0 * number + rng.standard_normal(80), "y": np.array(classes)[number]})
    table.to_parquet("a.parquet")
    table.to_csv("a.csv", index=False)
    options = ["--target", "y", "--task", "classification", "--layers", 8, "--epochs", 100, "--no-plot"]
    for data in ("a.parquet", "a.csv"):
        figures = train(data, *options, "-o", "m.safetensors")
        assert [entry["class"] for entry in figures["test_classes"]] == classes
        call("predict", "m.safetensors", data, "-o", "out.parquet", "--proba")
        predicted = pd.read_parquet("out.parquet")
        assert list(predicted) == ["y", f"proba_{classes[0]}", f"proba_{classes[1]}"]
        assert str(predicted["y"].dtype).replace("object", "str") == dtype
        assert (predicted["y"] == table["y"]).mean() > 0.9
        text = pd.read_csv(io.StringIO(call("predict", "m.safetensors", data, "--proba").stdout), dtype="str")
        assert list(text) == list(predicted)
        assert text["y"].tolist() == [str(label) for label in predicted["y"]]
        chosen = np.array(classes)[text.iloc[:, 1:].astype(float).to_numpy().argmax(axis=1)]
        assert chosen.tolist() == predicted["y"].tolist()


def test_probabilities_do_not_hide_the_target():
    flowers().rename(columns={"species": "proba_rose"}).to_csv("a.csv", index=False)
    train("a.csv", "--target", "proba_rose", *SMALL)
    assert "these are repeated: proba_rose" in failure("predict", "a.safetensors", "a.csv", "--proba")


def test_info_tells_what_a_model_holds():
    flowers().to_csv("a.csv", index=False)
    train("a.csv", "--target", "species", "--ignore", "id", "--dtype", "float64", *SMALL)
    text = call("info", "a.safetensors").stdout
    for told in ("4 x 8", "softmax", "loss categorical_cross_entropy, float64", "target 'species', classification"):
        assert told in text
    for told in ("(x - ", "one-hot: blue, red, white", "best epoch", "seed"):
        assert told in text
    known = json.loads(call("info", "a.safetensors", "--json").stdout)
    assert known["activations"] == ["relu", "softmax"]
    assert (known["dtype"], known["loss"], known["n_parameters"]) == ("float64", "categorical_cross_entropy", 67)
    assert [feature["kind"] for feature in known["encoder"]["features"]] == ["numeric", "categorical"]
    assert known["figures"]["seed"] == 0
    assert known["metadata"] == {}


def test_info_shows_metadata_of_models_that_were_saved_in_python():
    metadata = {"author": "me", "runs": [1, 2], "text": "x" * 100}
    MLP([2, 3, 1], "tanh", random_state=0).save("m.safetensors", metadata=metadata)
    lines = call("info", "m.safetensors").stdout.splitlines()
    assert lines[-3:] == ["author  me", "runs    [1, 2]", f"text    {'x' * 60}..."]
    known = json.loads(call("info", "m.safetensors", "--json").stdout)
    assert known["metadata"] == metadata
    assert known["activations"] == ["tanh", "identity"]
    assert known["encoder"] is known["figures"] is None
