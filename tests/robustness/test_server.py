"""Whom the page's server answers: real requests against this machine's own address."""

import contextlib
import http.client
import importlib.util
import socket
import threading
import time

import pytest

from crispr_lm import InputError
from crispr_lm.app.server import LOCAL_NAMES, SECURITY_HEADERS, OwnOriginOnly, check_address, prepare
from crispr_lm.other_settings import AppSettings

pytestmark = pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs uvicorn (extra app)")


async def everything(scope, receive, send):
    """An application that answers whatever is asked."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"the page"})


@pytest.fixture(scope="module")
def port():
    import uvicorn

    guarded = OwnOriginOnly(everything, (*LOCAL_NAMES, "127.0.0.1"))
    server = uvicorn.Server(uvicorn.Config(guarded, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


def asked(port, method="GET", path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
            for one in [value] if isinstance(value, str) else value:
                connection.putheader(name.replace("_", "-"), one.replace("PORT", str(port)))
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


OWN = [
    {},
    {"Host": "localhost:PORT"},
    {"Origin": "http://127.0.0.1:PORT"},
    {"Host": "localhost:PORT", "Origin": "http://localhost:PORT"},
    {"Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},  # typed
    {"Host": "[::1]:PORT"},
    {"Host": "LOCALHOST:PORT", "Origin": "http://localhost:PORT"},
    {"Origin": "https://127.0.0.1:PORT"},  # a program that serves it on
]
FOLLOWED = [  # a link to it, which no page can read the answer of
    {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for site in ("cross-site", "same-site")
]
FOREIGN = [
    {"Host": "evil.example"},  # DNS rebinding: a site's name that points here
    {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
    {"Host": "127.0.0.1.evil.example:PORT"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil@localhost.evil.example"},
    {"Host": "[::1"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "http://[127.0.0.1"},
    {"Origin": "null"},  # a sandboxed frame, a file
    {"Origin": "http://127.0.0.1:1"},  # another server on this machine
    {"Origin": "http://localhost:PORT"},  # another name than that of the request
    {"Origin": "http://127.0.0.1:PORT.evil.example"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},  # another port of this machine
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "object"},
    {"Sec_Fetch_Site": ["same-origin", "cross-site"], "Sec_Fetch_Mode": "cors"},
    {"Sec_Fetch_Site": "something new"},
    {"Host": ["127.0.0.1:PORT", "127.0.0.1:PORT"]},
    {"Host": ["evil.example", "127.0.0.1:PORT"]},
    {"Host": "user@127.0.0.1:PORT"},
    {"Host": "evil.example@127.0.0.1:PORT", "Origin": "http://evil.example@127.0.0.1:PORT"},
    {"Host": "127.0.0.1:80x"},
    {"Host": "127.0.0.1:"},
    {"Host": "127.0.0.1:99999"},
    {"Host": "127.0.0.1:PORT/path"},
    {"Host": "127.0.0.1 evil.example"},
    {"Origin": ["http://127.0.0.1:PORT", "http://evil.example"]},
    {"Origin": "http://user@127.0.0.1:PORT"},
    {"Origin": "http://127.0.0.1:PORT/"},
    {"Origin": "ftp://127.0.0.1:PORT"},
    {"Origin": ""},
]


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_the_page_itself_is_answered(port, headers):
    status, given, body = asked(port, **headers)
    assert (status, body) == (200, b"the page")
    assert {name: given[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.parametrize("headers", FOLLOWED, ids=str)
def test_a_link_is_followed_and_nothing_is_posted_by_it(port, headers):
    assert asked(port, **headers)[0] == 200
    assert asked(port, path="/?__theme=dark", **headers)[0] == 200
    assert asked(port, "POST", **headers)[0] == 403


@pytest.mark.parametrize("path", ["/config", "/gradio_api/info", "/gradio_api/file=x", "//", "/."])
@pytest.mark.parametrize("headers", FOLLOWED, ids=str)
def test_a_link_opens_nothing_but_the_page(port, headers, path):
    assert asked(port, path=path, **headers)[0] == 403
    assert asked(port, path=path)[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_others_are_refused_before_they_reach_the_page(port, headers, method):
    status, given, body = asked(port, method, **headers)
    assert status in (400, 403)
    assert b"the page" not in body
    assert not any(name.lower().startswith("access-control") for name in given)


def upgraded(port, **headers):
    """The status that a request for a web socket is answered with."""
    return asked(
        port,
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Version="13",
        **headers,
    )[0]


@pytest.mark.skipif(importlib.util.find_spec("websockets") is None, reason="needs websockets")
def test_web_sockets_of_others_are_refused(port):
    assert upgraded(port, Origin=f"http://127.0.0.1:{port}") == 101
    for headers in FOREIGN[:11]:
        if headers.get("Host") != "":
            assert upgraded(port, **headers) in (400, 403)


def test_it_listens_on_this_machine_alone():
    assert AppSettings().host == "127.0.0.1"
    with socket.socket() as other:  # an address of the network that is not this machine's
        other.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="can't be served on"):
            check_address("192.0.2.1", 7860)


def test_the_address_is_checked_before_a_run_is_read(tmp_path):
    with pytest.raises(InputError, match="can't be served on"):
        prepare(tmp_path, AppSettings(host="192.0.2.1"))
