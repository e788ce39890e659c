import json

import numpy as np
import pytest
from report_samples import HOSTILE, capture_of, score_of, words_of, write_run, write_study
from scipy import stats

import inversion
from inversion.report import report_html, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium, from the dev extra, is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


def asked_for(browser) -> list[str]:
    """Addresses requested since the last call, without the pictures inside the page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith("data:")]


def all_of(page, selector):
    return page.find_elements(By.CSS_SELECTOR, selector)


def choose(page, control, text):
    Select(page.find_element(By.ID, control)).select_by_visible_text(text)


def tokens(page, pane=1):
    return all_of(page, f".pane:nth-child({pane}) .token")


def texts(page, pane=1):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return page.execute_script(script, f".pane:nth-child({pane}) .token")


def colours(page):
    each = "[...document.querySelectorAll('.pane:first-child .token')]"
    return page.execute_script(f"return {each}.map(e => getComputedStyle(e).backgroundColor)")


def numbers(page):
    rows = all_of(page, "#details dl div")
    return {row.find_element(By.TAG_NAME, "dt").text: row.find_element(By.TAG_NAME, "dd").text for row in rows}


def listed(page):
    return [int(button.text.split(" ")[0]) for button in all_of(page, "#list button")]


def test_the_page_asks_for_nothing_and_logs_nothing(opened, report):
    assert asked_for(opened) == [report.as_uri()]
    assert len(tokens(opened)) == len(words_of(0))
    for control in ("quantity", "layer", "segment", "correct", "sort"):
        options = Select(opened.find_element(By.ID, control)).options
        options[-1].click()
    assert asked_for(opened) == []
    assert opened.get_log("browser") == []


def test_the_numbers_of_a_study_unfold(browser, tmp_path):
    browser.get(write_report([write_study(tmp_path / "critique")], tmp_path / "study.html", resamples=50).as_uri())
    section = browser.find_element(By.CSS_SELECTOR, ".study")
    image = section.find_element(By.TAG_NAME, "img")
    assert browser.execute_script("return arguments[0].naturalWidth", image) > 500
    summary = section.find_element(By.TAG_NAME, "summary")
    table = section.find_element(By.TAG_NAME, "table")
    assert not table.is_displayed()
    summary.click()
    assert table.is_displayed()
    assert "hidden critique 40 35% [25%, 45%]" in table.text
    assert browser.get_log("browser") == []


def test_hostile_text_shows_as_text(opened):
    assert texts(opened)[1 : 1 + len(HOSTILE)] == HOSTILE
    assert "<img src=x onerror=alert(2)>" in opened.find_element(By.CSS_SELECTOR, ".prompt-text").text
    assert all_of(opened, "main img:not([src^='data:image/png'])") == []
    assert len(all_of(opened, "script")) == 2
    assert "toy & <b>bold</b>" in opened.find_element(By.CSS_SELECTOR, "main > section").text
    assert opened.find_element(By.TAG_NAME, "h1").text == "Entropy-gradient inversion: one, two"
    override = HOSTILE.index("\u202eoverride") + 1
    assert tokens(opened)[override].get_attribute("data-mark") == "⟨U+202E⟩"


def test_hovering_shows_the_numbers_of_that_token(opened):
    t = 3
    expected = capture_of(0).isel(token=t)
    ActionChains(opened).move_to_element(tokens(opened)[t]).perform()
    found = numbers(opened)
    assert float(found["token entropy"].removesuffix(" bits")) == pytest.approx(float(expected.entropy_bits), rel=1e-3)
    assert float(found["surprisal"].removesuffix(" bits")) == pytest.approx(float(expected.surprisal_bits), rel=1e-3)
    mean = found["nuclear norm, all layers, all projections"]
    assert float(mean) == pytest.approx(float(expected.nuclear.mean()), rel=1e-3)
    choose(opened, "layer", "1")
    choose(opened, "projection", "o")
    ActionChains(opened).move_to_element(tokens(opened, 2)[t]).perform()
    one = numbers(opened)["nuclear norm, layer 1, projection o"]
    assert float(one) == pytest.approx(float(capture_of(0, 100.0).nuclear[t, 1, 1]), rel=1e-3)
    assert "two, position 3, thinking" in opened.find_element(By.ID, "details").text


def test_means_over_one_axis_match(opened):
    choose(opened, "layer", "1")
    ActionChains(opened).move_to_element(tokens(opened)[2]).perform()
    found = float(numbers(opened)["nuclear norm, layer 1, all projections"])
    assert found == pytest.approx(float(capture_of(0).nuclear[2, 1].mean()), rel=1e-3)


def test_a_page_without_room_for_pairs_offers_the_means(browser, two_runs, tmp_path):
    out = tmp_path / "small.html"
    out.write_text(report_html(two_runs[:1], most_values=10, resamples=50, interval="jackknife"), encoding="utf-8")
    browser.get(out.as_uri())
    choose(browser, "layer", "1")
    assert len(Select(browser.find_element(By.ID, "projection")).options) == 1
    ActionChains(browser).move_to_element(tokens(browser)[2]).perform()
    found = float(numbers(browser)["nuclear norm, layer 1, all projections"])
    assert found == pytest.approx(float(capture_of(0).nuclear[2, 1].mean()), rel=1e-3)
    choose(browser, "layer", "mean of all")
    choose(browser, "projection", "o")
    ActionChains(browser).move_to_element(tokens(browser)[2]).perform()
    found = float(numbers(browser)["nuclear norm, all layers, projection o"])
    assert found == pytest.approx(float(capture_of(0).nuclear[2, :, 1].mean()), rel=1e-3)


def test_quantity_and_layer_menus_change_the_colours(opened):
    by_entropy = colours(opened)
    assert len(set(by_entropy)) > 5
    choose(opened, "quantity", "strength")
    by_strength = colours(opened)
    assert by_strength != by_entropy
    assert len(set(by_strength)) == 3  # t % 3 is all that varies
    legend = opened.find_element(By.ID, "legend").text
    choose(opened, "layer", "1")
    assert opened.find_element(By.ID, "legend").text != legend
    assert "layer 1" in opened.find_element(By.ID, "legend").text
    choose(opened, "beside", "nothing")
    alone = colours(opened)
    assert alone != by_strength  # one run's scale instead of both runs'


def test_filters_keep_what_fits(opened):
    assert listed(opened) == list(range(9))
    choose(opened, "correct", "right")
    assert listed(opened) == [k for k in range(9) if score_of(k) == 1]
    choose(opened, "correct", "not scored")
    assert listed(opened) == [2, 5, 8]
    choose(opened, "correct", "all responses")
    choose(opened, "segment", "answer")
    assert texts(opened) == ["so", "0"]
    choose(opened, "segment", "thinking")
    assert texts(opened) == HOSTILE
    opened.find_element(By.ID, "search").send_keys("is 4?")
    opened.implicitly_wait(2)
    assert opened.find_element(By.CSS_SELECTOR, "#list li:only-child button").text.startswith("4 ")
    opened.implicitly_wait(0)


def test_sorting_and_the_lists_follow_the_rank_product(opened, two_runs):
    run = inversion.load_run(two_runs[0])
    entropy, strength = run.entropy_bits.values, run.nuclear.mean(("layer", "projection")).values
    ranks = [2 * (stats.rankdata(v) - 1) / (len(v) - 1) - 1 for v in (entropy, strength)]
    inverted = -ranks[0] * ranks[1]
    means = {k: inverted[run.response.values == k].mean() for k in range(9)}
    choose(opened, "sort", "most inverted first")
    assert listed(opened) == sorted(means, key=lambda k: -means[k])
    top = [row.text for row in all_of(opened, "#most tbody td:nth-child(2)")]
    shown = np.array([float(text.replace("−", "-")) for text in top])
    np.testing.assert_allclose(shown, np.sort(inverted)[::-1][:12], rtol=1e-3)
    least = float(all_of(opened, "#least tbody td:nth-child(2)")[0].text.replace("−", "-"))
    assert least == pytest.approx(inverted.min(), rel=1e-3)
    all_of(opened, "#most button")[0].click()
    focused = opened.switch_to.active_element
    assert int(focused.get_attribute("data-index")) in np.flatnonzero(np.isclose(inverted, inverted.max(), rtol=1e-6))


def test_two_runs_stand_side_by_side_by_prompt(opened):
    all_of(opened, "#list button")[4].click()
    titles = [title.text for title in all_of(opened, ".pane h3")]
    assert titles == ["one, response 4", "two, response 4"]
    assert texts(opened, 1) == texts(opened, 2) == words_of(4)


def test_the_keyboard_reaches_the_tokens_and_every_control_has_a_name(opened):
    first = tokens(opened)[0]
    opened.execute_script("arguments[0].focus()", first)
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert opened.switch_to.active_element.text == HOSTILE[1]
    found = float(numbers(opened)["token entropy"].removesuffix(" bits"))
    assert found == pytest.approx(float(capture_of(0).entropy_bits[2]), rel=1e-3)
    controls = all_of(opened, "select, input, button")
    assert len(controls) > 15
    assert [c.get_attribute("outerHTML") for c in controls if not c.accessible_name] == []


def test_two_thousand_responses_stay_usable(browser, tmp_path):
    out = write_report([write_run(tmp_path / "many", 2000)], tmp_path / "r.html", resamples=100, interval="jackknife")
    browser.get(out.as_uri())
    assert browser.find_element(By.ID, "count").text == "2000 of 2000 responses"
    assert len(all_of(browser, "#list button")) == 20
    before = browser.execute_script("return performance.now()")
    choose(browser, "layer", "1")
    choose(browser, "sort", "most inverted first")
    choose(browser, "correct", "right")
    assert browser.execute_script("return performance.now()") - before < 10_000
    assert browser.find_element(By.ID, "count").text == "667 of 2000 responses"
    browser.find_element(By.ID, "next").click()
    assert browser.find_element(By.ID, "page").text == "page 2 of 34"


def test_tokens_of_a_notebook_show_their_numbers_in_both_themes(browser, tmp_path):
    html = inversion.show_tokens(capture_of(0), by="nuclear", layer=1, projection="o")._repr_html_()
    seen = {}
    for theme in ("true", "false"):
        page = tmp_path / f"{theme}.html"
        page.write_text(f'<meta charset="utf-8"><body data-jp-theme-light="{theme}">{html}', encoding="utf-8")
        browser.get_log("browser")
        browser.get(page.as_uri())
        spans = all_of(browser, ".inv-text span")
        assert len(spans) == len(words_of(0))
        assert "<script>alert(1)</script>" in spans[1].text
        assert "nuclear norm, layer 1, o: 13 logit per weight" in spans[1].get_attribute("title")
        seen[theme] = [(s.value_of_css_property("color"), s.value_of_css_property("background-color")) for s in spans]
        assert browser.get_log("browser") == []
    assert seen["true"] != seen["false"]
