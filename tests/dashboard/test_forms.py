"""What forms may do, for whom, and what is refused."""

import html
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.app import build_app
from gateway.dashboard.guard import MAX_FORM, OpenRoute, PageRoute
from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import DashboardClient, signed_in
from tests.support.gateway import RunningGateway, gateway_settings
from tests.support.routes import routes_below


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    settings = gateway_settings("redis://127.0.0.1:1", "http://127.0.0.1:1", tmp_path_factory.mktemp("data"))
    return build_app(settings).app


@pytest.fixture(scope="module")
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def dashboard(gateway: RunningGateway) -> Iterator[DashboardClient]:
    with signed_in(gateway) as opened:
        yield opened


FORMS = (
    "/teams",
    "/teams/{team}/limits",
    "/teams/{team}/overrides",
    "/teams/{team}/status",
    "/teams/{team}/resume",
    "/teams/{team}/credits",
    "/teams/{team}/keys",
    "/teams/{team}/keys/{key}/rotate",
    "/teams/{team}/keys/{key}/limits",
    "/teams/{team}/keys/{key}/overrides",
    "/teams/{team}/keys/{key}/status",
    "/upstreams/{upstream}/disable",
    "/upstreams/{upstream}/enable",
    "/admin-keys",
    "/admin-keys/{admin_key}/revoke",
    "/admin-keys/{admin_key}/rotate",
    "/configuration/reload",
    "/notices/test",
    "/teams/{team}/delete",
)
PAGES = ("", "/teams", "/requests", "/upstreams", "/audit", "/admin-keys", "/configuration")
KEY_FORMS = tuple(path for path in FORMS if "/keys" in path)
FIELDS = {
    "name": "by form",
    "status": "disabled",
    "amount_usd": "1",
    "overlap_hours": "1",
    "limits.rpm": "7",
    "until": "2099-12-24T00:00",
    "overrides": "rpm=8",
    "scope": "read",
    "confirm": "by form",
    "recipient": "nobody",
}


def test_these_are_all_the_forms(application: FastAPI) -> None:
    posts = {
        route.path
        for route in routes_below(application.routes)
        if type(route) is PageRoute and "POST" in (route.methods or ())
    }
    assert posts == {*FORMS, "/logout"}
    strangers = {route.path for route in routes_below(application.routes) if type(route) is OpenRoute}
    assert strangers == {"/login", "/login/oidc", "/login/callback", "/static/{name}"}
    assert not [
        route for route in routes_below(application.routes) if type(route) is APIRoute and "dashboard" in route.path
    ]


def place(root: httpx.Client, form: str) -> str:
    """Returns a form's path, for a team and a key of its own."""
    team = new_team(root)["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": "k"}))["id"]
    admin = done(root.post("/admin-keys", json={"name": "by form", "scope": "read"}))["id"]
    return form.format(team=team, key=key, upstream="simulator", admin_key=admin)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_without_its_token_changes_nothing(
    gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient, form: str
) -> None:
    path = place(root, form)
    before = done(root.get("/audit", params={"limit": 1}))["data"]
    with signed_in(gateway) as other:
        tokens = {"none": "", "wrong": "0" * 64, "another session's": other.token(), "cross-site": dashboard.token()}
    for token, text in tokens.items():
        headers = {"sec-fetch-site": "cross-site"} if token == "cross-site" else {}
        answer = dashboard.client.post(f"/dashboard{path}", data={**FIELDS, "csrf": text}, headers=headers)
        assert answer.status_code == 403, token
        assert "out of date" in answer.text, token
        assert done(root.get("/audit", params={"limit": 1}))["data"] == before, token


@pytest.mark.parametrize("scope", ["all", "team", "read"])
@pytest.mark.parametrize("form", FORMS)
def test_a_scope_may_what_the_admin_api_lets_it(
    gateway: RunningGateway, root: httpx.Client, form: str, scope: str
) -> None:
    path = place(root, form)
    team = path.split("/")[2] if path.startswith("/teams/") else new_team(root)["id"]
    key = new_admin(root, scope, team if scope == "team" else None)
    fields = {**FIELDS, "name": f"by {scope} of {team}"}
    if form == "/teams/{team}/delete":
        fields["confirm"] = done(root.get(f"/teams/{team}"))["name"]
    with signed_in(gateway, key) as someone:
        answer = someone.send(path, **fields)
    allowed = scope == "all" or (scope == "team" and form in KEY_FORMS)
    if allowed and form.endswith("/reload"):
        assert "started without a file" in answer.text
    else:
        assert (answer.status_code in (200, 303)) if allowed else (answer.status_code == 403), answer.text
    if form.endswith("disable"):
        done(root.post("/upstreams/simulator/enable"))


@pytest.mark.parametrize("form", [form for form in FORMS if "{team}" in form])
def test_a_lead_does_not_reach_another_team(gateway: RunningGateway, root: httpx.Client, form: str) -> None:
    lead = new_admin(root, "team", new_team(root)["id"])
    path = place(root, form)
    with signed_in(gateway, lead) as someone:
        assert someone.send(path, **FIELDS).status_code == 403
        assert someone.get("/".join(path.split("/")[:3])).status_code == 403


def test_who_may_only_look_sees_no_form_but_the_way_out(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root)["id"]
    done(root.post(f"/teams/{team}/keys", json={"name": "k"}))
    with signed_in(gateway, new_admin(root, "read")) as reader:
        for path in (*PAGES, f"/teams/{team}", f"/teams/{team}/journal"):
            posts = re.findall(r'method="post" action="([^"]+)"', reader.get(path).text)
            assert posts == ["/dashboard/logout"]


def test_what_is_done_by_form_is_in_the_audit_log(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root)["id"]
    assert dashboard.send(f"/teams/{team}/credits", kind="grant", amount_usd="2.5", note="top-up").status_code == 303
    action = done(root.get("/audit", params={"team": team, "limit": 1}))["data"][0]
    assert (action["action"], action["actor"]) == ("POST /teams/{team}/credits", "root")
    assert (action["before"]["available_usd"], action["after"]["available_usd"]) == ("10", "12.5")
    assert action["request_id"]


def test_a_form_sent_twice_makes_one_key_and_shows_the_same_text(
    root: httpx.Client, dashboard: DashboardClient
) -> None:
    team = new_team(root)["id"]
    answers = [dashboard.send(f"/teams/{team}/keys", name="once", idempotency_key="0123456789abcdef") for _ in range(2)]
    texts = [re.findall(r'id="secret"[^>]+value="([^"]+)"', answer.text) for answer in answers]
    assert texts[0] == texts[1] != []
    assert answers[0].headers["cache-control"] == "no-store"
    assert len(done(root.get(f"/teams/{team}/keys"))["data"]) == 1
    assert texts[0][0] not in dashboard.get(f"/teams/{team}").text


def test_a_refused_form_says_why_and_keeps_what_was_typed(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root)["id"]
    answer = dashboard.send(f"/teams/{team}/limits", **{"limits.rpm": "lots", "limits.budget_usd_day": "7.25"})
    assert answer.status_code == 400
    assert "limits.rpm" in answer.text
    for typed in ("lots", "7.25"):
        assert f'value="{typed}"' in answer.text
    assert done(root.get(f"/teams/{team}"))["limits"] == {}


def test_a_form_made_from_an_older_state_is_refused(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root)
    done(root.patch(f"/teams/{team['id']}", json={"limits": {"rpm": 5}}))
    answer = dashboard.send(f"/teams/{team['id']}/limits", version=str(team["version"]), **{"limits.rpm": "9"})
    assert answer.status_code == 412
    assert "changed in the meantime" in answer.text


def test_an_emptied_limit_is_removed_and_a_typed_one_set(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root, limits={"rpm": 5, "tpm": 1000})
    assert dashboard.send(f"/teams/{team['id']}/limits", **{"limits.rpm": "", "limits.tpm": "2,000"}).status_code == 303
    assert done(root.get(f"/teams/{team['id']}"))["limits"]["tpm"]["limit"] == 2000
    assert "rpm" not in done(root.get(f"/teams/{team['id']}"))["limits"]


def test_a_key_is_revoked_only_by_its_name(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root)["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": "careful"}))["id"]
    path = f"/teams/{team}/keys/{key}"
    assert dashboard.send(f"{path}/status", status="revoked", confirm="careless").status_code == 400
    assert done(root.get(path))["status"] == "active"
    assert dashboard.send(f"{path}/status", status="revoked", confirm="careful").status_code == 303
    assert done(root.get(path))["status"] == "revoked"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"x" * (MAX_FORM + 1), 413), (b"\xff\xfe", 400), (b"&".join(b"a%d=1" % n for n in range(101)), 400), (b"", 403)],
)
def test_a_body_that_is_no_form_is_refused(dashboard: DashboardClient, body: bytes, status: int) -> None:
    assert dashboard.client.post("/dashboard/teams", content=body).status_code == status


MARKUP = "<script>alert(1)<!--\"'><img src=x onerror=alert(1)>".replace("/", "")


def test_markup_in_names_stays_text(gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root, name=MARKUP)["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": MARKUP}))["key"]
    with gateway.sdk(key) as client:
        client.responses.create(model=f"simulator{MARKUP}", input="hello")
    dashboard.send(f"/teams/{team}/credits", kind="grant", amount_usd="1", note=MARKUP)
    done(root.post("/admin-keys", json={"name": MARKUP, "scope": "team", "team": team}))
    request_id = done(root.get("/requests", params={"team": team}))["data"][0]["id"]
    paths = (*PAGES, f"?team={team}", f"/teams/{team}", f"/teams/{team}/journal", f"/requests/{request_id}")
    pages = [dashboard.get(path).text for path in paths]
    pages.append(dashboard.get(f"/charts/spend.svg?team={team}").text)
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
    assert any(MARKUP in html.unescape(page) for page in pages)


def test_an_admin_key_is_made_shown_once_used_and_revoked(
    gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient
) -> None:
    team = new_team(root)
    fields = {"name": "lead of the night", "scope": "team", "team": team["id"], "expires_at": "2099-01-31T10:30"}
    answer = dashboard.send("/admin-keys", idempotency_key="f" * 32, **fields)
    (text,) = re.findall(r'id="secret"[^>]+value="([^"]+)"', answer.text)
    again = dashboard.send("/admin-keys", idempotency_key="f" * 32, **fields)
    assert text in again.text, "a reload of the answer makes nothing more"
    assert text not in dashboard.get("/admin-keys").text
    with signed_in(gateway, text) as lead:
        assert lead.get("/teams").headers["location"] == f"/dashboard/teams/{team['id']}"
        assert lead.get("/admin-keys").status_code == 403
        made = [key for key in done(root.get("/admin-keys"))["data"] if key["name"] == "lead of the night"]
        assert [key["expires_at"] for key in made] == ["2099-01-31T10:30:00.000Z"]
        answer = dashboard.send(f"/admin-keys/{made[0]['id']}/rotate", overlap_hours="1", idempotency_key="e" * 32)
        (newer,) = re.findall(r'id="secret"[^>]+value="([^"]+)"', answer.text)
        assert "an older secret" in dashboard.get("/admin-keys").text
        with signed_in(gateway, newer) as the_same:
            assert the_same.get("/teams").headers["location"] == f"/dashboard/teams/{team['id']}"
        path = f"/admin-keys/{made[0]['id']}/revoke"
        assert dashboard.send(path, confirm="somebody else").status_code == 400
        assert lead.get(f"/teams/{team['id']}").status_code == 200
        assert dashboard.send(path, confirm="lead of the night").status_code == 303
        assert lead.get(f"/teams/{team['id']}").status_code == 303, "off to the sign-in page"
        assert dashboard.send(path, confirm="lead of the night").status_code == 404


def test_a_refused_admin_key_says_why_and_keeps_what_was_typed(dashboard: DashboardClient) -> None:
    answer = dashboard.send("/admin-keys", name="typed name", scope="team", expires_at="soon")
    assert answer.status_code == 400
    assert 'value="typed name"' in answer.text
    assert "expires_at" in answer.text


def test_a_key_gets_a_label_and_an_end_and_loses_it(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root)["id"]
    dashboard.send(f"/teams/{team}/keys", name="trial", expires_at="2099-12-31T23:59")
    (key,) = done(root.get(f"/teams/{team}/keys"))["data"]
    assert key["expires_at"] == "2099-12-31T23:59:00.000Z"
    path = f"/teams/{team}/keys/{key['id']}"
    assert 'value="2099-12-31T23:59"' in dashboard.get(f"/teams/{team}").text
    assert dashboard.send(f"{path}/limits", name="for good", expires_at="").status_code == 303
    changed = done(root.get(path))
    assert (changed["name"], changed["expires_at"]) == ("for good", None)


def test_the_audit_page_says_in_words_what_is_different(root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root, limits={"rpm": 5})
    dashboard.send(f"/teams/{team['id']}/limits", **{"limits.rpm": "7", "limits.budget_usd_day": "2.5"})
    page = html.unescape(dashboard.get(f"/audit?team={team['id']}").text)
    assert f"changed the team <strong>{team['name']}</strong>" in page
    assert "rpm: 5 → 7" in page
    assert "budget_usd_day: none → 2.5" in page


def test_a_form_that_was_changed_and_sent_again_says_so_and_is_new(
    root: httpx.Client, dashboard: DashboardClient
) -> None:
    path = f"/teams/{new_team(root)['id']}"
    movement = {"kind": "grant", "idempotency_key": "b" * 32}
    assert [dashboard.send(f"{path}/credits", amount_usd="3", **movement).status_code for _ in range(2)] == [303, 303]
    answer = dashboard.send(f"{path}/credits", amount_usd="4", **movement)
    assert answer.status_code == 409
    assert "This form was sent before" in answer.text
    assert 'value="4"' in answer.text
    assert f'value="{"b" * 32}"' not in answer.text, "the form on this page is a new one"
    assert done(root.get(f"{path}/credits"))["available_usd"] == "13"


def test_a_form_sent_after_the_session_ended_leads_to_the_sign_in_page(
    root: httpx.Client, dashboard: DashboardClient
) -> None:
    path, token = f"/teams/{new_team(root)['id']}", dashboard.token()
    dashboard.client.cookies.clear()
    answer = dashboard.client.post(f"/dashboard{path}/credits", data={"csrf": token, "amount_usd": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/login?next=%2Fdashboard")
    assert done(root.get(f"{path}/credits"))["available_usd"] == "10"


STRANGE = ("a?b#c", "100%", "%2F", "naïve ✓ 日本語", "-rf", "--help", "0", "{{7*7}}", "a&b=c;d", "\\n", "🙂" * 10)


@pytest.mark.parametrize("name", STRANGE)
def test_a_strangely_named_team_has_all_its_pages(
    gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient, name: str
) -> None:
    made = dashboard.send("/teams", name=name, credits_usd="1")
    path = made.headers["location"].removeprefix("/dashboard").partition("?")[0]
    text = re.findall(r'id="secret"[^>]+value="([^"]+)"', dashboard.send(f"{path}/keys", name=name).text)[0]
    with gateway.http(text) as client:
        assert client.post("/v1/responses", json={"model": "a/model", "input": "x"}).is_success
    for page, query in ((path, {}), (f"{path}/journal", {}), ("", {"team": name}), ("/requests", {"team": name})):
        answer = dashboard.client.get(f"/dashboard{page}", params=query)
        assert answer.status_code == 200, page
        assert name in html.unescape(answer.text), page
    assert dashboard.client.get("/dashboard/teams", params={"find": name}).headers["location"] == f"/dashboard{path}"


@pytest.mark.parametrize("dots", ["%2e", "%2e%2e", "%2E%2E"])
def test_dots_for_a_name_lead_nowhere(dashboard: DashboardClient, dots: str) -> None:
    for path in (f"/teams/{dots}", f"/teams/{dots}/journal", f"/requests/{dots}"):
        answer = dashboard.get(path)
        assert answer.status_code in (303, 404), path
        assert "/admin/v1" not in answer.text
    assert dashboard.send(f"/upstreams/{dots}/disable").status_code == 404


def test_many_teams_come_in_pages_and_are_found_by_a_part_of_their_name(
    root: httpx.Client, dashboard: DashboardClient
) -> None:
    teams = [new_team(root, name=f"crowd {number:03}", credits_usd="0") for number in range(101)]
    pages = [dashboard.get("/teams").text]
    while after := re.search(r'href="/dashboard(/teams\?after=\w+)"', pages[-1]):
        pages.append(dashboard.get(after[1]).text)
    assert len(pages) > 1
    for team in teams:
        assert len([page for page in pages if f"/teams/{team['id']}" in page]) == 1
    found = dashboard.get("/teams?find=ROWD+04").text
    assert [team["name"] for team in teams if f">{team['name']}<" in found] == [f"crowd 04{n}" for n in range(10)]
    assert "No team is called so." in dashboard.get("/teams?find=nobody+at+all").text
