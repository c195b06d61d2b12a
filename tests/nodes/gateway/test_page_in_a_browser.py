"""The page as headless Chromium shows it, before meshes that are made up."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from airdraft.nodes.client.client import RequestFailedError  # noqa: E402
from tests.nodes.gateway.page_meshes import Gateways, gateways_in_a_thread  # noqa: E402
from tests.nodes.status_examples import STATUS, TARGET_NODE  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
LIMIT_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with gateways_in_a_thread(tmp_path_factory.mktemp("gateways")) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage"),
        # As root, in a container, Chromium has no sandbox of its own.
        *("--no-sandbox", f"--user-data-dir={profile}", "--window-size=1280,900"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(DRIVER), keep_alive=False
    )
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """One look at a gateway's page."""

    def __init__(self, driver: Any, urls: dict[str, str]) -> None:
        self.driver = driver
        self._urls = urls

    def open(self, name: str) -> None:
        self.driver.get(self._urls[name])

    def show(self, name: str) -> None:
        self.open(name)
        self.until_text("state", "live")

    def ask(self, prompt: str = "x") -> None:
        self.element("prompt").send_keys(prompt)
        self.element("go").click()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, element_id: str) -> str:
        # What is laid out: the text of what is hidden is "".
        found = self.run("return document.getElementById(arguments[0]).innerText", element_id)
        return str(found)

    def element(self, element_id: str) -> Any:
        return self.driver.find_element(By.ID, element_id)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        give_up_at = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < give_up_at, what or self.text("main")
            time.sleep(0.05)

    def until_text(self, element_id: str, part: str) -> None:
        self.until(lambda: part in self.text(element_id), f"no {part!r} in {element_id}")

    def emulate(self, *, width: int = 1280, scheme: str = "light", motion: str = "") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """Errors and violations of the policy that the console has had since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def num_answers(self, path: str) -> int:
        """How many answers the page has had from a route."""
        entries = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        return sum(str(name).endswith(path) for name in self.run(f"return {entries}"))

    def ground(self) -> str:
        return str(self.run("return getComputedStyle(document.body).backgroundColor"))


@pytest.fixture
def page(chromium: Any, gateways: Gateways) -> Iterator[Page]:
    made = Page(chromium, gateways.url)
    made.complaints()
    made.emulate()
    yield made
    # What the page stores is of one test, and polls end.
    made.run("try { sessionStorage.clear(); localStorage.clear(); } catch {}")
    chromium.get("about:blank")
    gateways.cut()


def test_a_mesh_at_work_is_drawn(page: Page) -> None:
    page.show("live")
    page.until(lambda: page.run("return document.querySelectorAll('#timeline rect').length"))
    page.until(lambda: page.run("return document.querySelectorAll('#speed-chart path').length"))
    assert "big" in page.text("targets")
    assert "small" in page.text("drafts")
    page.until_text("streams-table", "decoding")
    assert "no draft node follows the stream (100 %)" in page.text("why-plain")
    assert "20 were in caches" in page.text("prompts")
    assert page.run("return document.querySelectorAll('#links path[d]').length") == 2 * (2 + 1)
    assert page.complaints() == []


def test_a_prompt_s_tokens_say_what_made_them(page: Page, gateways: Gateways) -> None:
    page.show("marked")
    # What is left empty is left to the gateway.
    for name in ("temperature", "max-tokens"):
        page.element(name).clear()
    page.ask()
    page.until_text("outcome", "3 of 5 guesses accepted")
    _, options = gateways.meshes["marked"].asked[-1]
    assert options.temperature > 0
    assert options.max_tokens > 0
    assert "tokens/s" in page.text("outcome")
    assert page.text("answer").replace("\n", "") == "Guesses are checked.<b>So</b> it goes"
    rows = page.run(
        "return [...document.querySelectorAll('#answer .tok')].map((token) =>"
        " [token.className.split(' ')[1], token.title,"
        "  getComputedStyle(token).textDecorationLine,"
        "  getComputedStyle(token).textDecorationStyle])"
    )
    kinds = ["plain", "accepted", "accepted", "corrected", "accepted", "bonus"]
    assert [row[0] for row in rows] == kinds
    assert "log-probability -0.100 (90 %)" in rows[0][1]
    lines = {kind: (line != "none") * style for kind, _, line, style in rows}
    assert lines == {"plain": "", "accepted": "solid", "corrected": "wavy", "bonus": "double"}
    page.element("answer").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "checked" in page.text("token")
    page.element("marks").click()
    bonus = page.driver.find_element(By.CSS_SELECTOR, "#answer .bonus")
    assert page.run("return getComputedStyle(arguments[0]).textDecorationLine", bonus) == "none"
    # The figures stay when the models change.
    num_answers = page.num_answers("/v1/models")
    nodes = (replace(TARGET_NODE, model="another"),)
    gateways.meshes["marked"].shown = replace(STATUS, nodes=nodes)
    page.until(lambda: page.num_answers("/v1/models") > num_answers)
    assert "3 of 5 guesses accepted" in page.text("outcome")
    assert page.complaints() == []


def test_an_answer_that_is_stopped_or_breaks_off_says_so(page: Page, gateways: Gateways) -> None:
    page.show("held")
    page.ask()
    page.until_text("answer", "so far")
    assert not page.element("go").is_enabled()
    page.element("stop").click()
    page.until_text("outcome", "Stopped. 1 token")
    assert page.complaints() == []
    page.element("go").click()
    page.until_text("answer", "so far")
    gateways.cut()
    page.until_text("outcome", "ended too early")
    assert page.element("go").is_enabled()
    page.until_text("state", "live")


def test_names_are_never_markup(page: Page) -> None:
    page.open("hostile")
    tables = ("targets", "drafts", "streams-table", "plan-notes")
    for part in (*tables, "timeline", "air", "cluster", "tiles"):
        page.until_text(part, "<img src=x")
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert page.driver.title == "airdraft"
    # The page's own policy holds even where a script of ours would slip.
    refused = page.run(
        "try { document.createElement('p').innerHTML = '<b>x</b>'; } catch (e) { return e.name; }"
    )
    assert refused == "TypeError"
    assert all("TrustedHTML" in line for line in page.complaints())


def test_windows_of_any_width_show_everything(page: Page) -> None:
    for name in ("empty", "keys", "many", "live", "hostile"):
        for width in (1280, 768, 360):
            page.emulate(width=width)
            page.open(name)
            shown = page.element("ask-key" if name == "keys" else "tiles")
            page.until(shown.is_displayed)
            assert page.run("return innerWidth") == width
            assert page.run("return document.documentElement.scrollWidth") <= width, (name, width)
        if name == "empty":
            page.until_text("targets", "No target")
            assert "No draft node" in page.text("drafts")
            assert "No stream" in page.text("streams-table")
        elif name == "many":
            page.until_text("state", "live")
            assert len(page.driver.find_elements(By.CSS_SELECTOR, "#topology [data-key]")) == 64
            assert len(page.driver.find_elements(By.CSS_SELECTOR, "#streams-table tbody tr")) == 16
        elif name != "keys":
            # A phone, which has no tooltips, shows cells and figures whole.
            page.until_text("air", "reserved")
            cut = page.run(
                "return [...document.querySelectorAll('td, .air .row span:last-child')]"
                ".filter((part) => part.scrollWidth > part.clientWidth).map((p) => p.innerText)"
            )
            assert cut == []


def test_a_coordinator_or_a_gateway_that_is_lost_is_told(page: Page, gateways: Gateways) -> None:
    page.show("lost")
    gateways.meshes["lost"].is_joined = False
    page.until_text("state", "coordinator lost")
    assert "The figures below are" in page.text("notice")
    assert "big" in page.text("targets")
    gateways.meshes["lost"].is_joined = True
    page.until_text("state", "live")
    # Nobody is lost.
    gateways.meshes["lost"].shown = RequestFailedError("internal", "it cannot be read")
    page.until_text("state", "error 500")
    assert "It cannot be read." in page.text("notice")
    page.show("live")
    page.run(
        "const of = AbortSignal.timeout; AbortSignal.timeout = () => of.call(AbortSignal, 99);"
    )
    with gateways.held_status("live"):
        page.until_text("state", "gateway lost")
        assert "The figures below are" in page.text("notice")


def test_a_key_is_asked_for_and_forgotten(page: Page, gateways: Gateways) -> None:
    page.open("keys")
    page.until(lambda: page.element("ask-key").is_displayed())
    assert not page.element("shown").is_displayed()
    field = page.element("key")
    # It has the focus: one may type at once.
    assert page.driver.switch_to.active_element == field
    field.send_keys("ad-wrong", Keys.ENTER)
    page.until_text("key-error", "does not know")
    field.send_keys("ad-boss", Keys.ENTER)
    page.until_text("state", "live")
    assert page.run("return Object.values(sessionStorage)") == ["ad-boss"]
    assert page.run("return Object.values(localStorage).concat(document.cookie)") == [""]
    assert "ad-boss" not in page.run("return location.href + document.documentElement.outerHTML")
    page.driver.refresh()
    page.until_text("state", "live")
    # What comes after the key was forgotten is not shown.
    mesh = gateways.meshes["keys"]
    with gateways.held_status("keys"):
        num_requests = mesh.num_status_requests
        page.until(lambda: mesh.num_status_requests > num_requests)
        num_answers = page.num_answers("/api/status")
        page.element("forget").click()
    page.until(lambda: page.num_answers("/api/status") > num_answers)
    assert page.element("ask-key").is_displayed()
    assert not page.element("shown").is_displayed()
    assert page.run("return sessionStorage.length") == 0
    # A key is of ASCII; with another sign no request could be made.
    page.element("key").send_keys("ad–boss", Keys.ENTER)
    assert page.element("ask-key").is_displayed()
    page.element("key").clear()
    # One without the scope admin has the playground.
    page.element("key").send_keys("ad-guest", Keys.ENTER)
    page.until_text("state", "playground only")
    assert not page.element("operate").is_displayed()
    page.ask()
    page.until_text("outcome", "6 tokens")


def test_keyboard_colours_and_motion_are_as_the_user_has_them(page: Page) -> None:
    page.show("marked")
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        name, outline = page.run(
            "const at = document.activeElement; const style = getComputedStyle(at);"
            "return [at.id || at.getAttribute('href') || at.tagName.toLowerCase(),"
            " style.outlineStyle]"
        )
        if reached and name in (reached[0], "body"):
            break
        assert outline != "none", name
        reached.append(name)
    wanted = ["#main", "#mesh", "theme", "prompt", "summary", "temperature", "max-tokens"]
    wanted += ["seed", "model", "go", "marks", "answer"]
    assert [name for name in reached if name in wanted] == wanted
    unnamed = page.run(
        "return [...document.querySelectorAll('input, select, textarea')]"
        ".filter((field) => !field.labels.length).map((field) => field.id)"
    )
    assert unnamed == []
    light = page.ground()
    page.emulate(scheme="dark", motion="reduce")
    dark = page.ground()
    assert light != dark
    names = page.run(
        "return [...document.querySelectorAll('*')].map((e) => getComputedStyle(e).animationName)"
    )
    assert set(names) == {"none"}
    for ground in (light, dark):
        page.element("theme").send_keys(Keys.ARROW_DOWN)
        assert page.ground() == ground
    page.emulate(scheme="light")
    page.driver.refresh()
    assert page.ground() == dark
