"""Which variables hold keys, where these go, and what the operator has said of them."""

import msgspec
import pytest

from aios.abi.errors import Invalid, Unavailable
from aios.config import Config, read_config
from aios.drivers.clock import SystemClock
from aios.kernel.access.tokens import Tokens
from aios.keys import Allowance, Use, coming, keys_in, paid_cores, read_allowance, take_keys, write_allowance
from aios.testing.kernel import MemoryDocument

OPENAI = Use("OPENAI_API_KEY", "https://api.openai.com")
GROQ = Use("GROQ_API_KEY", "https://api.groq.com")


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Config:
    return config_of("", tmp_path_factory, monkeypatch)


def config_of(text: str, folders: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Config:
    project = folders.mktemp("project")
    monkeypatch.setenv("AIOS_HOME", str(folders.mktemp("home")))
    monkeypatch.chdir(project)
    (project / "aios.toml").write_text(text)
    return read_config(project / "aios.toml")


def test_keys_are_found_by_the_names_of_their_variables(config: Config) -> None:
    environment = {"OPENAI_API_KEY": "secret", "GROQ_API_KEY": "", "OTHER_KEY": "x", "GEMINI_API_KEY": "y"}
    assert keys_in(environment, config) == ["OPENAI_API_KEY", "GEMINI_API_KEY"]
    assert [each.use for each in paid_cores(config, dict.fromkeys(keys_in(environment, config)))] == [OPENAI]


def test_a_token_of_a_kernel_is_no_key_of_a_provider_although_it_goes_by_its_name(config: Config) -> None:
    own = Tokens(MemoryDocument(), SystemClock()).add("pen", (), "standard").value
    environment = {"OPENAI_API_KEY": own, "XAI_API_KEY": own[:-1], "GROQ_API_KEY": f"sk-{own}"}
    assert keys_in(environment, config) == ["GROQ_API_KEY", "XAI_API_KEY"]


def test_keys_are_taken_out_of_the_environment_and_a_wrong_one_is_not_told(config: Config) -> None:
    environment = {"OPENAI_API_KEY": "sk-good", "GROQ_API_KEY": "two words", "PATH": "/bin"}
    held = take_keys(environment, config)
    assert environment == {"PATH": "/bin"} and list(held.keys) == ["OPENAI_API_KEY"]
    assert "holds no key" in held.wrong["GROQ_API_KEY"] and "two" not in f"{held}" and "sk-good" not in f"{held}"


def test_what_a_configuration_names_comes_before_what_the_environment_holds(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[[core]]\nprovider = "openai"\nmodels = ["m"]\n'
        '[[core]]\nname = "lan"\nbase_url = "https://models.example.com/v1"\n'
        '[[core]]\nname = "here"\nbase_url = "http://127.0.0.1:8000/v1"\n'
        '[[core]]\nname = "gateway"\nbase_url = "http://127.0.0.1:4000/v1"\nkey_env = "GATEWAY_KEY"\n'
    )
    config = config_of(text, tmp_path_factory, monkeypatch)
    found = list(paid_cores(config, {"OPENAI_API_KEY": 1, "GROQ_API_KEY": 1}))
    assert [(each.core.name, each.present, each.named) for each in found] == [
        ("openai", True, True),
        ("lan", True, True),
        ("gateway", False, True),
        ("groq", True, False),
    ]
    assert found[0].core.models == ("m",) and found[1].use == Use("", "https://models.example.com")


def test_only_what_was_accepted_for_a_place_is_allowed_and_only_with_an_amount() -> None:
    nothing = Allowance()
    assert not nothing.allows(OPENAI)
    some = nothing.accepting([OPENAI], 5, "day")
    assert some.allows(OPENAI) and not some.allows(GROQ)
    for other in (Use("OPENAI_API_KEY", "https://api.openai.com:8443"), Use("OPENAI_API_KEY", OPENAI.origin, "/ca.pem")):
        assert not some.allows(other)
    assert not some.declining([OPENAI]).allows(OPENAI)
    again = some.declining([OPENAI]).accepting([OPENAI], 7, "hour")
    assert again == Allowance(7, "hour", (OPENAI,), ())
    assert not msgspec.structs.replace(again, amount=None).allows(OPENAI)


def test_only_a_provider_s_own_address_is_meant_without_being_named() -> None:
    assert OPENAI.usual and GROQ.command == "aios up --budget USD --per month"
    for other in (
        Use("OPENAI_API_KEY", "https://api.openai.com.evil.example"),
        Use("OPENAI_API_KEY", "https://api.openai.com", "/their/ca.pem"),
        Use("OPENAI_API_KEY", GROQ.origin),
        Use("", OPENAI.origin),
        Use("OTHER_API_KEY", OPENAI.origin),
    ):
        assert not other.usual and other.command.endswith(f"--to {other.origin}")


def test_a_limit_is_one_for_the_prices_that_were_there_when_it_was_accepted(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(core: str, more: str = "") -> Use:
        text = f'[[core]]\nname = "c"\n{core}\n{more}'
        config = config_of(text, tmp_path_factory, monkeypatch)
        return next(each.use for each in paid_cores(config, {"OPENAI_API_KEY": 1, "GATEWAY_KEY": 1}))

    openai, free = 'provider = "openai"', "input = 0\noutput = 0\n"
    same = 'base_url = "https://api.openai.com/v1"\nkey_env = "OPENAI_API_KEY"\n'
    assert use(openai) == use(openai, '[prices.models."groq/m"]\n' + free) == use(same) == OPENAI
    for core, more in (
        (openai, '[prices.models."OpenAI/gpt-5"]\n' + free),
        (same + 'provider = "OPENAI"', '[prices.models."openai/gpt-5"]\n' + free),
        (openai + "\nprice = {}", ""),
        (same + 'provider = "local"', ""),
        (same + 'provider = "groq"', ""),
    ):
        other = use(core, more)
        assert other.prices and not other.usual and "at prices of" in str(other)
        assert not Allowance().accepting([OPENAI], 5, "day").allows(other)
    dear, dearer = (use(openai, f'[prices.models."openai/m"]\ninput = {n}\noutput = 1\n') for n in (1, 2))
    assert dear != dearer
    gateway = 'base_url = "https://models.example.com/v1"\nkey_env = "GATEWAY_KEY"\nprovider = "openai"'
    assert use(gateway).prices == "`openai`"


def test_a_file_of_certificates_is_one_place_and_not_any_of_its_name(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[[core]]\nname = "c"\nbase_url = "https://models.example.com/v1"\nca_file = "ours.pem"\n'
    first, second = (next(paid_cores(config_of(text, tmp_path_factory, monkeypatch), {})).use for _ in range(2))
    assert first.ca_file.startswith("/") and first.ca_file != second.ca_file


def test_all_are_off_also_those_whose_keys_are_not_there_now() -> None:
    off = Allowance().accepting([OPENAI, GROQ], 5, "day").off([OPENAI])
    assert not off.allows(OPENAI) and not off.allows(GROQ) and not off.accepted


def test_who_names_no_window_of_what_is_elsewhere_has_one_of_what_is_usual_there(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[[core]]\nname = "far"\nbase_url = "https://models.example.com/v1"\n'
        '[[core]]\nname = "said"\nbase_url = "https://models.example.com/v1"\nwindow = 4096\n'
        '[[core]]\nname = "here"\nbase_url = "http://127.0.0.1:8000/v1"\n'
        '[[core]]\nname = "gateway"\nbase_url = "http://127.0.0.1:8001/v1"\nprice = { input = 1, output = 4 }\n'
        '[[core]]\nname = "priced"\nbase_url = "http://127.0.0.1:8002/v1"\nprovider = "amazon"\n'
        '[[core]]\nname = "ours"\nbase_url = "http://127.0.0.1:8003/v1"\nprovider = "local"\n'
    )
    windows = [core.window for core in config_of(text, tmp_path_factory, monkeypatch).cores]
    assert windows == [128_000, 4096, 8192, 128_000, 128_000, 8192], "what is paid for is reserved for, wherever it is asked"


def test_a_provider_that_is_coming_is_told_as_such(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("anthropic", "Gemini", "google"):
        with pytest.raises(
            Invalid, match=rf"`core.0.`: the wire of `{name}` is not spoken yet, it is coming: .*`base_url`"
        ) as no:
            config_of(f'[[core]]\nprovider = "{name}"\n', tmp_path_factory, monkeypatch)
        assert no.value.field == "core[0].base_url"


def test_a_key_that_a_configuration_uses_is_not_one_that_is_coming(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[[core]]\nname = "c"\nbase_url = "https://models.example.com/v1"\nkey_env = "ANTHROPIC_API_KEY"\n'
    there = ["ANTHROPIC_API_KEY", "GEMINI_API_KEY"]
    for said, names in (
        (text, {"GEMINI_API_KEY": "Gemini"}),
        ("", {"ANTHROPIC_API_KEY": "Anthropic", "GEMINI_API_KEY": "Gemini"}),
    ):
        assert dict(coming(there, config_of(said, tmp_path_factory, monkeypatch))) == names


def test_an_address_that_may_not_be_asked_is_told_by_file_and_place(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = '[[core]]\nprovider = "openai"\n'
    for bad in ('name = "x"\nbase_url = "http://models.example.com/v1"', 'provider = "openai"\nbase_url = "ftp://127.0.0.1"'):
        with pytest.raises(Invalid, match=r"aios\.toml: `core.1.`: .* is neither `https:`") as no:
            config_of(f"{good}[[core]]\n{bad}\n", tmp_path_factory, monkeypatch)
        assert no.value.field == "core[1].base_url"


def test_what_the_operator_said_is_kept_for_its_eyes_alone(config: Config) -> None:
    assert read_allowance(config.home) == Allowance()
    said = Allowance(5, "day", (OPENAI,), (GROQ,))
    write_allowance(config.home, said)
    assert read_allowance(config.home) == said
    assert (config.home / "keys.json").stat().st_mode & 0o777 == 0o600
    (config.home / "keys.json").write_text('{"amount": 1e400}')
    with pytest.raises(Unavailable, match="every key is off"):
        read_allowance(config.home)
