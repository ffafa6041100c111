"""`aios token`: tokens for agents that are not ours to start."""

from __future__ import annotations

import click
from msgspec.structs import replace

from aios.abi.errors import Conflict, NotFound
from aios.abi.manifest import Grant
from aios.abi.request import CLASSES, Class
from aios.abi.system import AddToken, ListTokens, RevokeToken, TokenInfo, TokenList
from aios.cli.command import Command, agreed, as_json, yes
from aios.cli.running import the_running
from aios.cli.show import put_json, say, since, table
from aios.sdk.client import Client


@click.group()
def token() -> None:
    """Make, list and revoke tokens.

    A token lets a client that knows nothing of AIOS take part as one agent.
    """


@token.command(cls=Command)
@click.option("--agent", required=True, metavar="NAME", help="The agent that it speaks for.")
@click.option(
    "--class", "cls", type=click.Choice(CLASSES), default="standard", show_default=True, help="The highest class of its calls."
)
@click.option(
    "--grant", "grants", multiple=True, metavar="G", help="A right, e.g. `use /llm/*` (the default); may be given again."
)
@click.option("--tenant", metavar="NAME", help="Who it belongs to: tenants know nothing of each other (`local`).")
@click.option("--user", default="", metavar="NAME", help="The user of that tenant.")
@click.option(
    "--weight", type=float, metavar="W", help="Parts that the user, or else the tenant, gets beside others: 1 if nobody says."
)
@as_json
def add(
    agent: str, cls: Class, grants: tuple[str, ...], tenant: str | None, user: str, weight: float | None, as_json: bool
) -> None:
    """Make a token and show it, this once.

    With the two lines that point an OpenAI client to the kernel.
    """
    for text in grants:
        try:
            Grant.parse(text)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    try:
        request = AddToken(agent=agent, cls=cls, tenant=tenant, user=user, weight=weight)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    request = replace(request, grants=grants) if grants else request
    with Client() as kernel:
        made = kernel.call(request)
    if as_json:
        put_json(made)
        return
    say(f"token {made.info.id} for agent {made.info.agent}; it is shown this once:")
    click.echo(f"export OPENAI_BASE_URL={the_running().http}/v1")
    click.echo(f"export OPENAI_API_KEY={made.value}")


@token.command(cls=Command)
@as_json
def ls(as_json: bool) -> None:
    """List the tokens.

    Without their values, which nobody has any more.
    """
    with Client() as kernel:
        found = kernel.call(ListTokens())
    if as_json:
        put_json(found)
    elif found.tokens:
        table(("ID", "ACCOUNT", "AGENT", "CLASS", "WEIGHT", "AGE", "GRANTS"), map(cells, found.tokens))
    else:
        say("there are no tokens: `aios token add --agent NAME` makes one")


def cells(info: TokenInfo) -> tuple[str, ...]:
    """A token as a row of the table."""
    account = f"{info.tenant}/{info.user}" if info.user else info.tenant
    weight = f"{info.weight:g}" if info.weight is not None else ""
    return info.id, account, info.agent, info.cls, weight, since(info.created_ns), ", ".join(info.grants)


@token.command(cls=Command)
@click.argument("token_id", metavar="ID")
@yes
def rm(token_id: str, yes: bool) -> None:
    """Revoke a token.

    Its sessions end at once, and their calls with them. ID may be the beginning of one, or the name of an agent that has only
    one.
    """
    with Client() as kernel:
        info = chosen(kernel.call(ListTokens()), token_id)
        if agreed(f"Revoke token {info.id} of agent {info.agent}?", yes):
            kernel.call(RevokeToken(id=info.id))
            say(f"token {info.id} is worthless now")


def chosen(found: TokenList, text: str) -> TokenInfo:
    """The token with that id, or the only one whose id begins so or that is an agent's. Raises `NotFound`, `Conflict`."""
    exact = [info for info in found.tokens if info.id == text]
    begins = [info for info in found.tokens if info.id.startswith(text)] if text else []
    meant = exact or begins or [info for info in found.tokens if info.agent == text]
    if not meant:
        raise NotFound(f"there is no token `{text}`: `aios token ls` lists them")
    if len(meant) > 1:
        some = ", ".join(f"`{info.id}`" for info in meant[:5])
        whose = "is the beginning of" if begins else "has"
        raise Conflict(f"`{text}` {whose} {len(meant)} tokens: name one of {some}{', …' if len(meant) > 5 else ''}")
    return meant[0]
