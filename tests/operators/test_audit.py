"""The audit log: each change once, with who, what, before and after; never a secret; nothing for refused actions."""

from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.gateway import RunningGateway


def test_a_change_is_written_down_with_its_state_before_and_after(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root, limits={"rpm": 5})
        answer = root.patch(f"/teams/{team['name']}", json={"limits": {"rpm": 7}})
        entry = done(root.get("/audit", params={"team": team["id"]}))["data"][0]
    assert (entry["actor"], entry["action"]) == ("root", "PATCH /teams/{team}")
    assert entry["subject"] == f"team={team['name']}"
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["before"]["limits"]["rpm"]["limit"] == 5
    assert entry["after"]["limits"]["rpm"]["limit"] == 7
    assert entry["at"] is not None


def test_an_entry_names_what_was_created(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "laptop"}))
        done(root.post(f"/teams/{team['id']}/keys/{key['id']}/rotate", json={}))
        subjects = [entry["subject"] for entry in done(root.get("/audit", params={"team": team["id"]}))["data"]]
    assert subjects == [
        f"team={team['id']} key={key['id']}",
        f"team={team['id']} key=laptop",
        f"team={team['name']}",
    ]


def test_who_did_it_is_named_by_id_and_name(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        lead = new_admin(root, "team", team["id"], name="the lead")
        with admin_client(gateway, lead) as client:
            done(client.post(f"/teams/{team['id']}/keys", json={"name": "k"}))
            seen = done(client.get("/audit"))["data"]
        assert (seen[0]["actor_name"], seen[0]["action"]) == ("the lead", "POST /teams/{team}/keys")
        assert seen[0]["actor"] == done(root.get("/admin-keys"))["data"][-1]["id"]
        assert {entry["team_id"] for entry in seen} == {team["id"]}, "a lead reads of its own team alone"


def test_no_secret_is_in_the_log(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))
        rotated = done(root.post(f"/teams/{team['id']}/keys/{key['id']}/rotate", json={}))
        lead = new_admin(root, "team", team["id"])
        text = root.get("/audit", params={"limit": 1000}).text
    for secret in (key["key"], rotated["key"], lead):
        assert secret not in text
        assert secret.rsplit("-", 1)[1] not in text


def test_what_was_refused_or_only_looked_at_is_not_in_the_log(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        before = done(root.get("/audit"))["data"][0]["id"]
        assert root.patch(f"/teams/{team['id']}", json={"limits": {"rpm": -1}}).is_error
        assert root.patch("/teams/nobody", json={}).is_error
        assert root.get(f"/teams/{team['id']}").is_success
        assert done(root.get("/audit"))["data"][0]["id"] == before


def test_the_log_is_read_page_by_page_the_newest_first(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        for rpm in range(1, 6):
            done(root.patch(f"/teams/{team['id']}", json={"limits": {"rpm": rpm}}))
        seen, after = [], None
        while True:
            query = {"team": team["id"], "limit": 2, **({"after": after} if after else {})}
            page = done(root.get("/audit", params=query))
            seen += page["data"]
            after = page["next"]
            if after is None:
                break
        assert [entry["after"]["limits"]["rpm"]["limit"] for entry in seen[:5]] == [5, 4, 3, 2, 1]
        assert seen[5]["action"] == "POST /teams"
        assert len(seen) == 6
        assert root.get("/audit", params={"after": "x"}).status_code == 400
