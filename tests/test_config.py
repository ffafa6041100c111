"""`aios.toml` becomes one `Config`, or one sentence with the file and the path of what is wrong."""

from pathlib import Path

import pytest

from aios.abi.errors import Invalid, NotFound, Unavailable
from aios.abi.price import Rates
from aios.boot import cores, embedders
from aios.config import chosen_core, find_file, open_home, project_folder, read_config, with_options
from aios.drivers.core.local.shelf import Added, Shelf
from aios.drivers.sandbox.landlock import LandlockSandbox


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project folder to be in, a home beside it, and nothing of this machine's own configuration."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    monkeypatch.delenv("AIOS_CONFIG", raising=False)


def write(text: str, path: str = "aios.toml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_without_a_file_everything_is_a_default_and_the_embedded_model_answers() -> None:
    config = read_config()
    assert config.file is None and config.lanes.cores.policy == "elas" and config.local is not None
    assert chosen_core(config)[0] == "embedded model"


def test_what_a_file_says_replaces_the_default_and_nothing_else() -> None:
    default = read_config()
    write('[server]\nport = 9000\n[lanes.cores]\nqueue = 5\n[aliases]\nfast = "m"\n')
    config = read_config()
    assert (config.server.port, config.lanes.cores.queue, dict(config.aliases)) == (9000, 5, {"fast": "m"})
    assert (config.server.host, config.lanes.cores.policy) == (default.server.host, default.lanes.cores.policy)


PRICE = """\
[prices.models."b/y"]
input = 1
output = 1
[prices.models."a/x"]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown key `prot`"),
        ("[server]\nprot = 1", "unknown key `server.prot`; did you mean `port`?"),
        ("[lanes.core]\nqueue = 1", "unknown key `lanes.core`; did you mean `cores`?"),
        ("[local]\nslot = 1", "unknown key `local.slot`; did you mean `slots`?"),
        ('[local]\nhome = "/elsewhere"', "unknown key `local.home`"),
        ('[server]\nsocket = "/elsewhere"', "unknown key `server.socket`"),
        ('[server]\nport = "high"', "`server.port`: Expected `int`, got `str`"),
        ("server = 3", "`server`: Expected `object`, got `int`"),
        ("local = true", "`local` is a table or `false`"),
        ("embedder = true", "`embedder` is a table or `false`"),
        ("[embedder]\nthreads = 0", "`embedder.threads` must be 1 to 1024"),
        ("[lanes.cores]\nweights = {hog = 0}", "`lanes.cores.weights.hog` must be 0.001 to 1000"),
        ('[lanes.index]\npolicy = "pair"', "did you mean `fair`?"),
        ("[[core]]\nnmae = 'x'", "unknown key `core[0].nmae`; did you mean `name`?"),
        ("[aliases]\nfast = 1", "`aliases[...]`: Expected `str`, got `int`"),
        ("port 3", "is no TOML"),
        ("[server]\nport = 99999", "`server.port` must be 0 to 65535"),
        ("[server]\nport = -1", "`server.port` must be 0 to 65535"),
        ("[server]\nmax_body_bytes = -1", "`server.max_body_bytes` must be 1 to 1073741824"),
        ("[server]\nbody_timeout_s = nan", "`server.body_timeout_s` must be above 0"),
        ("[server]\nconnections = 0", "`server.connections` must be 2 to"),
        ('[server]\nhost = "0.0.0.0"', "`server.host` must be a loopback address"),
        ('[server]\nhost = "box.lan"', "`server.host` must be a loopback address"),
        ("[lanes.cores]\nqueue = -5", "`lanes.cores.queue` must be 1 to 1000000"),
        ('[lanes.cores]\npolicy = "lottery"', "`lanes.cores.policy` must be one of `fifo`, `round-robin`, `priority`"),
        ('[lanes.cores]\npolicy = "priorty"', "did you mean `priority`?"),
        ("[local]\nslots = 0", "`local.slots` must be 1 to 255"),
        ("[local]\nthreads = 0", "`local.threads` must be 1 to 1024"),
        ("[local]\nwindow = 1", "`local.window` must be 64 to"),
        ("[local]\ntemperature = 3", "`local.temperature` must be 0 to 2"),
        ("[local]\nfreeze_s = 0", "`local.freeze_s` must be above 0"),
        ("[[core]]\nname = 'x'\nbase_url = 'y'\nslots = 0", "`core[0].slots` must be 1 to 10000"),
        ("port = " + "9" * 5000, "is no TOML"),
        ("port = 1e" + "9" * 30, "no number is as large"),
        ("[prices.local]\ninput = nan\noutput = 1", "`prices.local.input` must be 0 to 10000"),
        ("[prices.local]\ninput = 1", "`prices.local`: Object missing required field `output`"),
        (PRICE + "input = -0.1\noutput = 1", '`prices.models."a/x".input` must be 0 to 10000'),
        (PRICE + "input = 1\noutput = inf", '`prices.models."a/x".output` must be 0 to 10000'),
        (PRICE + "input = 1\noutput = 1e999999", '`prices.models."a/x".output` must be 0 to 10000'),
        (PRICE + "input = 1\noutput = 1e-10", '`prices.models."a/x".output` must have at most nine decimals'),
        (PRICE + "input = 1\noutput = 1\nrequest = 101", '`prices.models."a/x".request` must be 0 to 100'),
        (PRICE + "output = 1", '`prices.models."a/x"`: Object missing required field `input`'),
        (PRICE + "input = 1\noutput = true", '`prices.models."a/x".output`: Expected `decimal`, got `bool`'),
        (PRICE + 'input = 1\noutput = "1"', '`prices.models."a/x".output` is a text: write it without quotes'),
        (PRICE + 'input = "٥"\noutput = 1', '`prices.models."a/x".input` is a text'),
        ('[prices.local]\ninput = "nan"\noutput = 1', "`prices.local.input` is a text"),
        ('[prices.models."ａ/x"]\ninput = 0\noutput = 0', "which only looks like `a/x`"),
        *(
            (f"[guard]\nusd_per_minute = {bad}", "`guard.usd_per_minute` must be 0 to 9,007,199")
            for bad in (
                "1e999999",
                "1e999990",
                "1e-999999",
                "nan",
                "inf",
                "-1",
                "1e-10",
            )
        ),
        ('[guard]\nusd_per_minute = "5"', "`guard.usd_per_minute` is a text"),
        (PRICE + "input = 1\noutpt = 1", 'unknown key `prices.models."a/x".outpt`; did you mean `output`?'),
        ("[prices.models]\n'a/x' = 3", '`prices.models."a/x"`: Expected `object`, got `int`'),
        ("[prices.models]\nx = {input = 1, output = 1}", "`prices.models` must hold prices by `PROVIDER/MODEL`, and not by `x`"),
        ("[prices]\nmodels = 3", "`prices.models`: Expected `object`, got `int`"),
        ("[prices]\nlocl = {}", "unknown key `prices.locl`; did you mean `local`?"),
    ],
)
def test_a_slip_is_an_error_with_the_file_and_the_path_in_it(text: str, said: str) -> None:
    write(text)
    with pytest.raises(Invalid) as caught:
        read_config()
    assert said in str(caught.value) and str(caught.value).startswith("aios.toml")


def test_prices_are_what_is_written_to_the_last_digit() -> None:
    write('[prices.local]\ninput = 0.1\noutput = 1e-9\n[prices.models."openai/gpt-5"]\ninput = 1\noutput = 10.000000001\n')
    prices = read_config().prices
    assert prices.local is not None
    assert prices.local.price().rates == Rates(input=100_000_000, output=1)
    assert prices.models["openai/gpt-5"].price().rates == Rates(input=10**9, output=10_000_000_001)


def test_numbers_of_other_settings_are_still_floats() -> None:
    write("[lanes.cores]\nweights = {a = 0.5}\n[local]\ntemperature = 0.7")
    config = read_config()
    assert config.local is not None and type(config.local.temperature) is float and config.local.temperature == 0.7
    assert config.lanes.cores.weights == {"a": 0.5} and type(config.lanes.cores.weights["a"]) is float


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_has_several_names(host: str) -> None:
    write(f'[server]\nhost = "{host}"')
    assert read_config().server.host == host


def test_files_are_sought_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_file() is None
    far = write("", str(tmp_path / "etc" / "aios" / "aios.toml"))
    assert find_file() == far
    near = write("")
    assert find_file() == near
    named = write("", str(tmp_path / "named.toml"))
    monkeypatch.setenv("AIOS_CONFIG", str(named))
    assert find_file() == named
    asked = write("", str(tmp_path / "asked.toml"))
    assert find_file(asked) == asked


def test_a_file_that_was_named_and_does_not_exist_is_an_error() -> None:
    with pytest.raises(NotFound, match=r"aios init"):
        read_config(Path("nowhere.toml"))


def test_a_named_model_file_comes_before_an_endpoint_and_that_before_the_embedded_model() -> None:
    endpoint = '[[core]]\nname = "here"\nbase_url = "http://127.0.0.1:8080/v1"\n'
    write("[local]\npath = '/models/m.gguf'\n")
    assert chosen_core(read_config())[0] == "model file"
    write("[local]\npath = '/models/m.gguf'\n" + endpoint)
    config = read_config()
    assert chosen_core(config)[0] == "model file" and [core.info().name for core in cores(config)][1:] == ["here"]
    write("[local]\nslots = 3\n" + endpoint)
    config = read_config()
    assert chosen_core(config)[0] == "endpoint" and next(cores(config)).info().name == "here"
    write(endpoint)
    assert read_config().local is None, "an endpoint is enough: the embedded model does not run beside it unless asked for"
    paid = 'local = false\n[[core]]\nprovider = "openai"\n'
    write(paid)
    source, why = chosen_core(read_config())
    assert source == "none" and "`[aliases]`" in why
    write(f'{paid}models = ["gpt-5-mini"]')
    assert chosen_core(read_config())[0] == "endpoint"
    write("local = false")
    assert chosen_core(read_config())[0] == "none"


def test_what_embeds_is_there_if_its_model_is_unless_it_is_named_or_switched_off(tmp_path: Path) -> None:
    sandbox = LandlockSandbox()
    write("")
    assert [each.info().model for each in embedders(read_config(), sandbox)] == ["all-minilm-l6-v2"]
    write("embedder = false")
    assert list(embedders(read_config(), sandbox)) == []
    write(f'[embedder]\npath = "{tmp_path}"')
    with pytest.raises(Unavailable, match=r"no model.safetensors in .*`\[embedder\]`"):
        list(embedders(read_config(), sandbox))


def test_an_added_model_that_was_chosen_comes_before_the_embedded_one_and_after_a_named_file(tmp_path: Path) -> None:
    shelf = Shelf(open_home())
    with shelf.adding("mine") as part:
        part.write_bytes(b"x")
        shelf.keep(Added("mine", 1, "0" * 64, "here", "llama", 0), part)
    assert read_config().added is None
    shelf.choose("mine")
    write("[local]\nslots = 3\n")
    config = read_config()
    assert config.local is not None and config.local.path == shelf.path("mine") and config.local.slots == 3
    assert config.local.sha256 == "0" * 64, "a file that was changed later is not what was added"
    assert (config.local.name, config.local.model, chosen_core(config)[0]) == ("mine", "mine", "added model")
    write("[local]\nname = 'core-0'\n")
    config = read_config()
    assert config.local is not None and (config.local.name, config.local.model) == ("core-0", "mine")
    write("[local]\npath = '/models/m.gguf'\n")
    config = read_config()
    assert config.local is not None and config.local.path == Path("/models/m.gguf") and config.added is None
    assert chosen_core(config)[0] == "model file"
    write("[[core]]\nname = 'c'\nbase_url = 'http://127.0.0.1:1/v1'\nmodels = ['m']\n")
    assert chosen_core(read_config())[0] == "endpoint"


def test_the_command_line_has_the_last_word() -> None:
    write("[server]\nport = 9000\n")
    config = with_options(read_config(), port=9001, no_local=True)
    assert (config.server.port, config.local) == (9001, None)


def test_the_home_is_made_for_its_owner_alone() -> None:
    assert open_home().stat().st_mode & 0o777 == 0o700


def test_a_home_that_others_may_enter_is_refused_with_the_command_that_mends_it() -> None:
    open_home().chmod(0o750)
    with pytest.raises(Unavailable, match=r"chmod 700"):
        open_home()


@pytest.mark.parametrize("inside", ["project/home", "project/below/home"])
def test_a_home_inside_the_project_is_refused_because_agents_may_read_there(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / inside))
    with pytest.raises(Unavailable, match="AIOS_HOME"):
        open_home()


def test_a_project_is_found_from_below_by_its_mark(tmp_path: Path) -> None:
    below = tmp_path / "project" / "src" / "deep"
    below.mkdir(parents=True)
    assert project_folder(below) == below
    (tmp_path / "project" / "pyproject.toml").touch()
    assert project_folder(below) == tmp_path / "project"


def test_a_persons_home_folder_is_no_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_folder(tmp_path) is None
    assert project_folder(tmp_path / "project") == tmp_path / "project"
