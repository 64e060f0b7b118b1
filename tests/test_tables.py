"""Tables from files: what columns hold, how .csv and .npz files are read, and what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest

from cymlp.tables import check_names, read_column, read_table, some
from cymlp.tabular import CategoricalColumn, NumericColumn, TabularEncoder


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "missing"),
    [
        (pd.array([1, None, 3], dtype="Int64"), "numeric", "f", [False, True, False]),
        (pd.array([1, 2, 3], dtype="Int64"), "numeric", "i", [False] * 3),
        (pd.array([True, None, False], dtype="boolean"), "numeric", "f", [False, True, False]),
        (pd.Series(["a", None, "b"], dtype="string"), "text", "O", [False, True, False]),
        (pd.Series([1, 2, 1]).astype("category"), "text", "O", [False] * 3),
        (np.array([1.5, None, np.nan], dtype=object), "numeric", "f", [False, True, True]),
        (np.array([np.float32(1), 2, True], dtype=object), "numeric", "f", [False] * 3),
        (np.array(["a", "b"]), "text", "O", [False] * 2),
        ([1, 2], "numeric", "i", [False] * 2),
        (np.array([1, 2], dtype=np.uint8), "numeric", "u", [False] * 2),
    ],
)
def test_columns_of_all_kinds_are_read(values, kind, dtype, missing):
    column = read_column("c", values)
    assert (column.kind, column.values.dtype.kind, column.missing.tolist()) == (kind, dtype, missing)


def test_columns_with_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"'c' must be one-dimensional; got shape \(2, 2\)"):
        read_column("c", np.zeros((2, 2)))


def test_repeated_names_are_refused():
    with pytest.raises(ValueError, match="these are repeated: a, b"):
        check_names(["a", "b", "a", "b", "c"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_separators_and_byte_order_mark(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + separator.join(["a", "b"]).encode() + f"\n1{separator}x\n2{separator}y\n".encode()
    )
    columns = read_table(path).columns
    assert list(columns) == ["a", "b"]
    assert list(columns["b"]) == ["x", "y"]


def test_ignored_columns_are_left_out_and_must_exist(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    assert list(read_table(path, ignore=["a"]).columns) == ["b"]
    with pytest.raises(ValueError, match="there is no c to ignore; the file has a, b"):
        read_table(path, ignore=["c"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "cannot read .*a.csv: the file is empty"),
        ("a.csv", b"\n  \n", "cannot read .*a.csv: the file is empty"),
        ("a.csv", b"a,b\n1,2,3\n", "cannot read .*a.csv"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "cannot read .*a.csv"),
        ("a.csv", b"a,b\n\xff\xfe,2\n", "cannot read .*a.csv: it must be UTF-8 text; got byte 0xff"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "cannot read .*a.csv: it must be UTF-8 text"),
        ("a.csv", b'a,b\n"1,2\n3,4\n', "cannot read .*a.csv: .*EOF inside string"),
        ("a.csv", b"a" * 200_000 + b",b\n1,2\n", "a name in the header is longer than 131072 characters"),
        ("a.csv", b"a,b\n", "a.csv has no rows to learn from"),
        ("a.parquet", b"PAR1 but no more", "cannot read .*a.parquet"),
        ("a.npz", b"PK\x03\x04 but no more", "cannot read .*a.npz"),
        ("a.xlsx", b"", "file must end in .csv, .tsv, .parquet or .npz; got 'a.xlsx'"),
    ],
)
def test_damaged_files_are_value_errors(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_npz_arrays_become_columns(tmp_path):
    path = tmp_path / "a.npz"
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(path, images=images, age=np.array([1.0, 2.0]), name=np.array([b"x", b"y"]))
    table = read_table(path)
    assert table.pixels
    assert list(table.columns) == [*(f"images[{i}]" for i in range(12)), "age", "name"]
    np.testing.assert_array_equal(table.columns["images[5]"], [5, 17])
    assert table.columns["name"].tolist() == ["x", "y"]
    np.savez(path, X=images.astype(float))
    assert not read_table(path).pixels


def test_npz_refuses_objects_scalars_and_unequal_lengths(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_table(path)
    np.savez(path, X=np.zeros((3, 2)), y=np.zeros(4))
    with pytest.raises(ValueError, match=r"same number of rows: X \(3\), y \(4\)"):
        read_table(path)
    np.savez(path, X=np.zeros((3, 2)), y=3)
    with pytest.raises(ValueError, match="'y' must have rows"):
        read_table(path)


def test_reading_for_prediction_takes_what_the_encoder_needs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("zip,size\n01234,1\n99999,2\n")
    encoder = TabularEncoder(
        [CategoricalColumn("zip", ("01234", "n/a?")), NumericColumn("size", 0.0, 1.0)],
        "y",
        "regression",
        None,
        None,
        0,
        1,
    )
    assert list(read_table(path, encoder=encoder).columns["zip"]) == ["01234", "99999"]
    arrays = tmp_path / "a.npz"
    np.savez(arrays, size=np.zeros(2), zip=np.array(["01234", "n/a?"]), other=np.zeros(7))
    assert sorted(read_table(arrays, encoder=encoder).columns) == ["size", "zip"]


def write(path, *lines):
    """A .csv file of these lines, each with a line's end."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.mark.parametrize(
    "header",
    ["a,t,t", 'a,"t",t', "a, t,t ", "\ufeffa,t,t", "\n\na,t,t", "a;t;t", "a\tt\tt", '"x,y";t;t', '"a\nb",t,t'],
)
def test_repeated_columns_of_a_file_are_refused_and_named(tmp_path, header):
    separator = header.rstrip()[-2]
    path = write(tmp_path / "a.csv", header, separator.join("123"), separator.join("456"))
    with pytest.raises(ValueError, match=r"a\.csv: column names must differ; these are repeated: t$"):
        read_table(path)


def test_names_that_only_look_repeated_are_kept(tmp_path):
    columns = read_table(write(tmp_path / "a.csv", "t,t.1,T,t t", "1,2,3,4")).columns
    assert {name: column.tolist() for name, column in columns.items()} == {"t": [1], "t.1": [2], "T": [3], "t t": [4]}


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (" my col , the target ", ["my col", "the target"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a\nb",c', ["a\nb", "c"]),
        ('"say ""a""",c', ['say "a"', "c"]),
        ("\n  \nа,größe", ["а", "größe"]),
    ],
)
def test_names_are_those_of_the_header_without_spaces_around_them(tmp_path, header, names):
    columns = read_table(write(tmp_path / "a.csv", header, " 1 ,x", "2, y")).columns
    assert {name: column.tolist() for name, column in columns.items()} == dict(
        zip(names, ([1, 2], ["x", "y"]), strict=True)
    )


def test_the_separator_is_sought_outside_of_quotes_and_in_headers_of_any_length(tmp_path):
    assert list(read_table(write(tmp_path / "a.csv", '"a,b,c";d', "1;2")).columns) == ["a,b,c", "d"]
    assert list(read_table(write(tmp_path / "a.tsv", "a,b\tc", "1\t2")).columns) == ["a,b", "c"]
    wide = [f"column {i}" for i in range(20_000)]
    assert list(read_table(write(tmp_path / "wide.csv", ";".join(wide), "1" + ";1" * 19_999)).columns) == wide


def test_columns_without_names(tmp_path):
    path = write(tmp_path / "a.csv", ",a,b,", "0,5,1,", "1,6,2,")
    with pytest.warns(UserWarning, match="a column without a name is called 'Unnamed: 0'; if it numbers the rows"):
        assert list(read_table(path).columns) == ["Unnamed: 0", "a", "b"]  # the last one is but a separator
    assert list(read_table(path, ignore=["Unnamed: 0"]).columns) == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        (["1,5", "-2,25", "3"], [1.5, -2.25, 3]),
        (["1,5", "", "+,5"], [1.5, np.nan, 0.5]),
        (["1.234,5", "12.345", "7"], [1234.5, 12345, 7]),
        (["1.234.567,25", "0,125", "1,"], [1234567.25, 0.125, 1]),
        (["1 234,5", "12 345", "7"], [1234.5, 12345, 7]),
        (["1'234,5", "1\u00a0234,5", "1\u202f234,5"], [1234.5, 1234.5, 1234.5]),
        (["1,5e3", "2,5E-1", "1e2"], [1500, 0.25, 100]),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_become_numbers_and_are_told(tmp_path, separator, written, numbers):
    rows = (separator.join([text, str(i), "name"]) for i, text in enumerate(written))
    path = write(tmp_path / "a.csv", separator.join(["a", "b", "c"]), *rows)
    with pytest.warns(UserWarning, match=r"^decimal commas in 1 column\(s\): a$"):
        columns = read_table(path).columns
    np.testing.assert_array_equal(columns["a"], numbers)
    assert read_column("b", columns["b"]).values.dtype.kind == "i"
    assert read_column("c", columns["c"]).kind == "text"


@pytest.mark.parametrize(
    ("separator", "written", "examples"),
    [
        (";", ["1,5", "2.5"], "'1,5' and '2.5'"),
        (";", ["1,5", "1.234"], "'1,5' and '1.234'"),
        (";", ["1,234.5", "7"], "'1,234.5'"),
        (";", ["1,234,567", "7"], "'1,234,567'"),
        (";", ["1.234.567", "7"], "'1.234.567'"),
        (";", ["1 234", "7"], "'1 234'"),
        (",", ['"1,5"', '"2,5"'], "'1,5'"),
        (",", ['"1,234"', "7.5"], "'1,234' and '7.5'"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path, separator, written, examples):
    path = write(tmp_path / "a.csv", f"b{separator}a", *(f"1{separator}{text}" for text in written))
    with pytest.raises(ValueError, match=f"column 'a' holds numbers such as {examples}, which can be read in two ways"):
        read_table(path)
    assert list(read_table(path, ignore=["a"]).columns) == ["b"]


def test_decimal_commas_beside_decimal_points_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "a;b;c;d", "0,5;1.000;1;", "1,5;1.001;2;3")
    message = "got commas in a, and points in b: write them one way"
    with pytest.raises(ValueError, match=message):
        read_table(path)
    with pytest.warns(UserWarning, match="decimal commas"):
        assert list(read_table(path, ignore=["b"]).columns) == ["a", "c", "d"]


@pytest.mark.parametrize("text", ["a,b", "1,2,3", "1,5 m", "3,x", "1.2.3", ",", "e5", "12:30", "0.12.345"])
def test_text_with_commas_stays_text(tmp_path, text):
    path = write(tmp_path / "a.csv", "a;b", f"{text};1", "z;2")
    assert read_table(path).columns["a"].tolist() == [text, "z"]


def test_decimal_commas_in_prediction(tmp_path):
    path = write(tmp_path / "a.csv", "a;code;t", "1,5;1,5;1.5", "2;2;2,5")
    encoder = TabularEncoder(
        [NumericColumn("a", 0.0, 1.0), CategoricalColumn("code", ("1,5", "2"))], "t", "regression", None, None, 0, 1
    )
    with pytest.warns(UserWarning, match=r"^decimal commas in 1 column\(s\): a$"):
        columns = read_table(path, encoder=encoder).columns
    np.testing.assert_array_equal(columns["a"], [1.5, 2])
    assert columns["code"].tolist() == ["1,5", "2"]  # as it was in training
    assert columns["t"].tolist() == ["1.5", "2,5"]  # not needed, and so not judged


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2", "?", "4.5", ""], "'a' is read as categories, as 1 of its 4 values are no numbers: ?"),
        (["2024-01-31", "2024-02-01", ""], "'a' holds dates, read as categories; turn it into numbers or leave it out"),
        (["31.01.2024", "1.2.24 12:30"], "'a' holds dates"),
        (["2024-01-31T12:00:00Z", "1/31/2024"], "'a' holds dates"),
    ],
)
def test_columns_that_were_hardly_meant_as_text_are_told(tmp_path, values, message):
    path = write(tmp_path / "a.csv", "a,b", *(f"{value},1" for value in values))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        columns = read_table(path).columns
    assert [message in str(warning.message) for warning in caught] == [True]
    assert read_column("a", columns["a"]).kind == "text"


def test_numbers_in_quotes_booleans_and_large_integers_are_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c,d", f'"1",True,{10**30},inf', f'"2",False,{10**30 + 1},-inf')
    columns = {name: read_column(name, column) for name, column in read_table(path).columns.items()}
    assert {name: column.kind for name, column in columns.items()} == dict.fromkeys("abcd", "numeric")
    assert columns["a"].values.tolist() == [1, 2]
    assert columns["b"].values.tolist() == [True, False]
    assert columns["c"].values.tolist() == [1e30, 1e30]
    assert columns["d"].values.tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_and_line_ends_in_quotes(tmp_path, end):
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["a,b", '1,"x', 'y"', "2,z", ""]).encode())
    columns = read_table(path).columns
    assert columns["a"].tolist() == [1, 2]
    assert columns["b"].tolist() == [f"x{end}y", "z"]


def test_long_values_are_read_whole_and_shown_short(tmp_path):
    path = write(tmp_path / "a.csv", "a,b", f"{'x' * 300_000},1", "y,2")
    assert read_table(path).columns["a"].tolist() == ["x" * 300_000, "y"]
    assert some(["x" * 300_000, "two\nlines"]) == "x" * 60 + "..., two lines"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "cannot read .*a.npz: it holds no arrays"),
        ({"X": np.zeros((0, 3)), "t": np.zeros(0)}, "a.npz has no rows to learn from"),
        ({"X": np.zeros((5, 0)), "t": np.zeros(5)}, r"array 'X' must have numbers in its rows; got shape \(5, 0\)"),
        ({"X": np.zeros((0, 0, 2))}, r"array 'X' must have numbers in its rows; got shape \(0, 0, 2\)"),
        ({"X": np.zeros((2, 2)), "X[1]": np.zeros(2)}, r"column names must differ; these are repeated: X\[1\]"),
    ],
)
def test_empty_and_clashing_arrays_are_refused(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_a_single_array_is_no_npz_file(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"it must hold named arrays, as np.savez writes; got one of shape \(2, 3\)"):
        read_table(path)


def test_prediction_takes_tables_without_rows(tmp_path):
    encoder = TabularEncoder([NumericColumn("X[0]", 0.0, 1.0)], "y", "regression", None, None, 0, 1)
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((0, 1)))
    assert encoder.transform(read_table(path, encoder=encoder).columns).shape == (0, 1)
    assert encoder.transform(read_table(write(tmp_path / "a.csv", "X[0]"), encoder=encoder).columns).shape == (0, 1)


@pytest.mark.parametrize("name", [".", "folder.csv"])
def test_folders_are_refused(tmp_path, name):
    path = tmp_path / name
    path.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"is a folder; give a file that ends in \.csv, \.tsv, \.parquet, \.npz"):
        read_table(path)
