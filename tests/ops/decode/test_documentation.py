from tests.ops.decode.oddities import oddities
from tests.ops.decode.table import COLUMNS, cpu_cell, read_table, write_column, write_is_wanted


def test_the_table_says_what_happens_on_the_cpu():
    """TORCHDALI_WRITE_DOCS=1 writes it anew."""
    happens = {name: cpu_cell(data) for name, data in oddities().items()}
    if write_is_wanted():
        write_column("CPU", happens)
    assert {name: cells["CPU"] for name, cells in read_table().items()} == happens


def test_the_table_has_all_rows_and_columns():
    table = read_table()
    assert list(table) == list(oddities())
    assert all(list(cells) == COLUMNS for cells in table.values())
