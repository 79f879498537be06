// The chat page in a real browser: needs chromium and chromedriver (Debian: chromium-driver), which speaks WebDriver
// (https://www.w3.org/TR/webdriver2/) over HTTP.
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include "base/files.h"
#include "base/json.h"
#include "base/random.h"
#include "mobile/session.h"
#include "tests/mobile/run_program.h"
#include "tests/mobile/server_process.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

/// A browser without a window.
class Browser {
 public:
  explicit Browser(int width)
      : driver_({"chromedriver", "--port=0"}, "successfully on port "), http_("127.0.0.1", driver_.port()) {
    http_.set_read_timeout(120);
    const Json options = {{"args", {"--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"}}};
    const Json wanted = {{"browserName", "chrome"}, {"goog:chromeOptions", options}, {"goog:loggingPrefs", {{"browser", "ALL"}}}};
    session_ = "/session/" + call("/session", {{"capabilities", {{"alwaysMatch", wanted}}}})["sessionId"].get<std::string>();
    // The narrowest window that chromium makes is wider than a phone, hence as its tool for phones does it.
    command("/goog/cdp/execute",
            {{"cmd", "Emulation.setDeviceMetricsOverride"},
             {"params", {{"width", width}, {"height", 700}, {"deviceScaleFactor", 1}, {"mobile", true}}}});
  }
  ~Browser() { http_.Delete(session_); }

  void open(const std::string& url) { command("/url", {{"url", url}}); }

  /// The value of a JavaScript expression.
  Json value(const std::string& expression) {
    return command("/execute/sync", {{"script", "return " + expression + ";"}, {"args", Json::array()}});
  }
  /// Waits until an expression is true.
  void wait_for(const std::string& expression) {
    for (int i = 0; i < 1200; ++i) {
      if (value("!!(" + expression + ")").get<bool>()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << "never true: " << expression;
  }
  /// Types as a person does; into a file input: chooses the file.
  void type(const std::string& selector, const std::string& text) { command(element(selector) + "/value", {{"text", text}}); }
  void click(const std::string& selector) { command(element(selector) + "/click", Json::object()); }

  /// What the page complained about on the browser's console.
  std::string complaints() {
    std::string found;
    for (const Json& entry : command("/se/log", {{"type", "browser"}})) {
      if (entry["level"] == "SEVERE") found += entry["message"].get<std::string>() + "\n";
    }
    return found;
  }

 private:
  std::string element(const std::string& selector) {
    const Json found = command("/element", {{"using", "css selector"}, {"value", selector}});
    return found.empty() ? "" : "/element/" + found.begin().value().get<std::string>();
  }
  Json command(const std::string& path, const Json& body) { return call(session_ + path, body); }
  Json call(const std::string& path, const Json& body) {
    const auto result = http_.Post(path, body.dump(), "application/json");
    if (!result) {
      ADD_FAILURE() << path << ": " << httplib::to_string(result.error());
      return {};
    }
    const Json answer = parse_json(result->body, path)["value"];
    EXPECT_EQ(result->status, 200) << path << " " << body.dump() << ": " << answer.value("message", "");
    return answer;
  }

  ServerProcess driver_;
  httplib::Client http_;
  std::string session_;
};

class ChatPage : public ::testing::Test {
 protected:
  void SetUp() override {
    if (run_shell("chromedriver --version && chromium --version").status != 0) {
      GTEST_SKIP() << "no browser: apt-get install chromium chromium-driver";
    }
    files_ = write_tiny_model({});
    server_ = std::make_unique<ServerProcess>(std::vector<std::string>{"--model", files_.language, "--mmproj", files_.mmproj});
    browser_ = std::make_unique<Browser>(360);
    browser_->open("http://127.0.0.1:" + std::to_string(server_->port()) + "/");
    browser_->wait_for("byId('model').textContent");
  }
  void TearDown() override {
    if (browser_) {
      EXPECT_EQ(browser_->complaints(), "");
    }
  }

  void ask(const std::string& text, int tokens) {
    browser_->value("byId('tokens').value = " + std::to_string(tokens));
    browser_->type("#input", text);
    browser_->click("#send");
  }
  void wait_for_answer() { browser_->wait_for("!running && send.textContent == 'Send'"); }
  std::string last(const std::string& selector) {
    const Json text = browser_->value("[...document.querySelectorAll('" + selector + "')].at(-1)?.textContent ?? ''");
    return text.is_string() ? text.get<std::string>() : "";
  }
  int count(const std::string& selector) {
    return browser_->value("document.querySelectorAll('" + selector + "').length").get<int>();
  }

  TinyFiles files_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<Browser> browser_;
};

TEST_F(ChatPage, AnswersAboutAPictureAsTheSessionDoesAndGoesOn) {
  Image picture(40, 20);
  Random random({1});
  for (std::uint8_t& value : picture.rgb) value = static_cast<std::uint8_t>(random.below(256));
  const std::string path = temporary_folder() + "/picture.png";
  write_file_atomic(path, encode_png(picture));
  Session session(files_.language, files_.mmproj);
  Chat chat;
  chat.turns = {{"user", "<image>\nwhat is this"}};
  chat.images = {picture};
  MobileSampling sampling;
  sampling.max_new_tokens = 12;
  const std::string first = session.chat(chat, sampling).text;
  chat.turns.push_back({"assistant", first});
  chat.turns.push_back({"user", "are you sure"});
  const std::string second = session.chat(chat, sampling).text;

  EXPECT_EQ(count(".hint"), 1);
  browser_->type("#files", path);
  browser_->wait_for("document.querySelector('#waiting img')?.naturalWidth == 40");
  ask("what is this", 12);
  wait_for_answer();
  EXPECT_EQ(last(".assistant .text"), first);
  EXPECT_EQ(last(".user .text"), "what is this");
  EXPECT_EQ(browser_->value("document.querySelector('.user .pictures img').naturalHeight"), 20);
  EXPECT_EQ(count("#waiting img"), 0);
  EXPECT_EQ(count(".hint"), 0);
  EXPECT_NE(last(".facts").find("slice"), std::string::npos) << last(".facts");
  EXPECT_NE(last(".facts").find("(0 kept)"), std::string::npos) << last(".facts");
  ask("are you sure", 12);
  wait_for_answer();
  EXPECT_EQ(last(".assistant .text"), second);
  EXPECT_EQ(last(".facts").find("(0 kept)"), std::string::npos) << last(".facts");
  // It fits a phone held upright.
  EXPECT_LE(browser_->value("document.documentElement.scrollWidth"), 360);
  browser_->click("#fresh");
  EXPECT_EQ(count(".turn"), 0);
  EXPECT_EQ(count(".hint"), 1);
}

TEST_F(ChatPage, StopsInTheMiddle) {
  Session session(files_.language, files_.mmproj);
  Chat chat;
  chat.turns = {{"user", "tell me more"}};
  MobileSampling sampling;
  sampling.max_new_tokens = 100000;
  const std::string whole = session.chat(chat, sampling).text;
  // As soon as a piece is there, before the browser could be asked whether it is.
  browser_->value("(() => { const watcher = new MutationObserver(() => {"
                  "  if (!running || !document.querySelector('.assistant .text')?.textContent) return;"
                  "  watcher.disconnect(); send.click(); });"
                  "watcher.observe(talk, {subtree: true, childList: true, characterData: true}); })()");
  ask("tell me more", 100000);
  wait_for_answer();
  const std::string kept = last(".assistant .text");
  EXPECT_FALSE(kept.empty());
  EXPECT_LT(kept.size(), whole.size());
  EXPECT_TRUE(whole.starts_with(kept)) << kept;
  EXPECT_EQ(count(".failed"), 0);
  ask("and now", 4);  // it can be talked to
  wait_for_answer();
  EXPECT_EQ(count(".assistant"), 2);
}

TEST_F(ChatPage, ShowsWhatTheServerRefuses) {
  browser_->value("byId('temperature').value = -1");
  ask("what is this", 4);
  wait_for_answer();
  EXPECT_NE(last(".failed").find("temperature"), std::string::npos) << last(".failed");
  EXPECT_NE(browser_->complaints().find("400"), std::string::npos);  // said there, too
  browser_->value("byId('temperature').value = 0");
  ask("what is this", 4);
  wait_for_answer();
  EXPECT_NE(last(".assistant .text"), "");
}

}  // namespace
}  // namespace pocketvlm
