#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <sstream>
#include <thread>
#include <utility>

#include "base/files.h"
#include "base/json.h"
#include "base/random.h"
#include "data/preprocess/utf8.h"
#include "mobile/session.h"
#include "tests/mobile/run_program.h"
#include "tests/mobile/server_process.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

constexpr const char* kCompletions = "/v1/chat/completions";
constexpr const char* kJson = "application/json";

std::string base64(const std::string& bytes) {
  const std::string path = temporary_folder() + "/bytes";
  write_file_atomic(path, bytes);
  return run_shell("base64 -w0 " + path).out;
}

class Server : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = write_tiny_model({});
    Image image(40, 20);
    Random random({1});
    for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
    picture_ = image;
    url_ = "data:image/png;base64," + base64(encode_png(image));
    server_ = std::make_unique<ServerProcess>(std::vector<std::string>{"--model",
                                                                       files_.language,
                                                                       "--mmproj",
                                                                       files_.mmproj,
                                                                       "--max-body-mib",
                                                                       "1",
                                                                       "--queue",
                                                                       "1"});
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->stop(SIGTERM), 0) << server_->errors();
    server_.reset();
  }

  static httplib::Client client(int port) {
    httplib::Client made("127.0.0.1", port);
    made.set_read_timeout(120);
    return made;
  }
  static httplib::Client client() { return client(server_->port()); }

  static Json text_request(const std::string& text, int max_tokens) {
    return {{"messages", Json::array({{{"role", "user"}, {"content", text}}})},
            {"max_tokens", max_tokens}};
  }
  static Json picture_request(int max_tokens) {
    Json request = text_request("", max_tokens);
    request["messages"][0]["content"] =
        Json::array({{{"type", "image_url"}, {"image_url", {{"url", url_}}}},
                     {{"type", "text"}, {"text", "what is this"}}});
    return request;
  }

  static ChatAnswer expected(int max_tokens) {
    Session session(files_.language, files_.mmproj);
    Chat chat;
    chat.turns = {{"user", "<image>\nwhat is this"}};
    chat.images = {picture_};
    MobileSampling sampling;
    sampling.max_new_tokens = max_tokens;
    return session.chat(chat, sampling);
  }

  static void expect_error(const httplib::Result& result, int status, const std::string& words) {
    ASSERT_TRUE(result) << words << ": " << httplib::to_string(result.error());
    EXPECT_EQ(result->status, status) << result->body;
    const Json json = parse_json(result->body, "answer");
    EXPECT_NE(json["error"]["message"].get<std::string>().find(words), std::string::npos)
        << words << ": " << result->body;
  }

  // The events of a stream, without the last mark, which must be there.
  static std::vector<Json> events(const std::string& body) {
    std::vector<Json> found;
    std::istringstream lines(body);
    std::string last;
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("data: ")) continue;
      last = line.substr(6);
      if (last != "[DONE]") found.push_back(parse_json(last, "event"));
    }
    EXPECT_EQ(last, "[DONE]");
    return found;
  }

  static inline TinyFiles files_;
  static inline Image picture_;
  static inline std::string url_;
  static inline std::unique_ptr<ServerProcess> server_;
};

TEST_F(Server, TellsItsHealthItsModelAndItsPage) {
  httplib::Client http = client();
  const auto health = http.Get("/health");
  ASSERT_TRUE(health);
  EXPECT_EQ(parse_json(health->body, "health")["status"], "ok");
  const auto models = http.Get("/v1/models");
  ASSERT_TRUE(models);
  const Json model = parse_json(models->body, "models")["data"][0];
  EXPECT_NE(files_.language.find(model["id"].get<std::string>()), std::string::npos);
  EXPECT_EQ(model["vision"], true);
  const auto page = http.Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_TRUE(page->get_header_value("Content-Type").starts_with("text/html"));
  EXPECT_NE(page->body.find("</html>"), std::string::npos);
  EXPECT_EQ(page->body.find("http://"), std::string::npos);  // nothing from elsewhere
  EXPECT_EQ(page->body.find("https://"), std::string::npos);
}

TEST_F(Server, AnswersAsTheSessionDoes) {
  const auto result = client().Post(kCompletions, picture_request(12).dump(), kJson);
  ASSERT_TRUE(result);
  ASSERT_EQ(result->status, 200) << result->body;
  const Json json = parse_json(result->body, "answer");
  const ChatAnswer answer = expected(12);
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["message"]["content"], answer.text);
  EXPECT_EQ(json["choices"][0]["finish_reason"], answer.stopped ? "stop" : "length");
  EXPECT_EQ(json["usage"]["prompt_tokens"], answer.timings.prompt_tokens);
  EXPECT_EQ(json["usage"]["completion_tokens"], answer.timings.generated_tokens);
  EXPECT_EQ(json["usage"]["total_tokens"],
            answer.timings.prompt_tokens + answer.timings.generated_tokens);
}

TEST_F(Server, TellsLogProbsOfEveryTokenAndOfTheLikeliestBesideIt) {
  Json request = picture_request(6);
  request["logprobs"] = true;
  request["top_logprobs"] = 5;
  auto result = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(result);
  ASSERT_EQ(result->status, 200) << result->body;
  const Json choice = parse_json(result->body, "answer")["choices"][0];
  const Json& tokens = choice["logprobs"]["content"];
  const ChatAnswer answer = expected(6);
  ASSERT_EQ(tokens.size(), answer.ids.size());

  Session session(files_.language, files_.mmproj);
  Chat chat;
  chat.turns = {{"user", "<image>\nwhat is this"}};
  chat.images = {picture_};
  EncodedChat prompt = session.encoder().encode(chat, true);
  std::string bytes;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    // The whole distribution at this place, from a forward of its own.
    const std::vector<float> all = session.forward_logits(prompt);
    const auto vocab = static_cast<std::size_t>(session.encoder().tokenizer().size());
    const std::size_t stride = all.size() / prompt.ids.size();
    std::vector<double> logits(all.end() - static_cast<std::ptrdiff_t>(stride), all.end() - static_cast<std::ptrdiff_t>(stride - vocab));
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit);
    EXPECT_NEAR(tokens[i]["logprob"].get<double>(), logits[static_cast<std::size_t>(answer.ids[i])] - std::log(sum), 1e-4);
    std::sort(logits.rbegin(), logits.rend());
    ASSERT_EQ(tokens[i]["top_logprobs"].size(), 5U);
    for (std::size_t k = 0; k < 5; ++k)
      EXPECT_NEAR(tokens[i]["top_logprobs"][k]["logprob"].get<double>(), logits[k] - std::log(sum), 1e-4);
    EXPECT_EQ(tokens[i]["token"], tokens[i]["top_logprobs"][0]["token"]) << "greedy takes the likeliest";
    for (const Json& byte : tokens[i]["bytes"]) bytes += static_cast<char>(byte.get<int>());
    prompt.ids.push_back(answer.ids[i]);
    prompt.is_target.push_back(0);
  }
  EXPECT_EQ(replace_invalid_utf8(bytes), choice["message"]["content"].get<std::string>());

  request["top_logprobs"] = nullptr;
  result = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(result);
  const Json plain = parse_json(result->body, "answer")["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(plain.size(), tokens.size());
  EXPECT_EQ(plain[0]["logprob"], tokens[0]["logprob"]);
  EXPECT_TRUE(plain[0]["top_logprobs"].empty());

  // Behind a stop text nothing is told.
  const std::string second = tokens[1]["token"].get<std::string>();
  ASSERT_FALSE(second.empty());
  request["stop"] = second;
  result = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(result);
  const Json cut = parse_json(result->body, "answer")["choices"][0];
  EXPECT_LT(cut["logprobs"]["content"].size(), tokens.size());
  std::string told;
  for (const Json& token : cut["logprobs"]["content"]) told += token["token"].get<std::string>();
  EXPECT_TRUE(told.starts_with(cut["message"]["content"].get<std::string>())) << told;

  request.erase("logprobs");
  request.erase("top_logprobs");
  result = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(result);
  EXPECT_TRUE(parse_json(result->body, "answer")["choices"][0]["logprobs"].is_null());
}

TEST_F(Server, StreamsTheSameText) {
  Json request = picture_request(12);
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  const auto result = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
  const std::vector<Json> found = events(result->body);
  ASSERT_GE(found.size(), 3U);
  EXPECT_EQ(found.front()["choices"][0]["delta"]["role"], "assistant");
  std::string text;
  for (std::size_t i = 0; i + 1 < found.size(); ++i) {
    text += found[i]["choices"][0]["delta"].value("content", "");
    EXPECT_EQ(found[i]["id"], found[0]["id"]);
    EXPECT_EQ(found[i]["choices"][0]["finish_reason"].is_null(), i + 2 < found.size());
  }
  const ChatAnswer answer = expected(12);
  EXPECT_EQ(text, answer.text);
  EXPECT_EQ(found.back()["usage"]["completion_tokens"], answer.timings.generated_tokens);
}

TEST_F(Server, ASecondTurnKeepsWhatTheFirstComputed) {
  Json request = picture_request(8);
  request["messages"][0]["content"][1]["text"] = "a question of its own";
  const auto first = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(first);
  const Json answer = parse_json(first->body, "answer");
  request["messages"].push_back(answer["choices"][0]["message"]);
  request["messages"].push_back({{"role", "user"}, {"content", "more"}});
  const auto second = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(second);
  const Json usage = parse_json(second->body, "answer")["usage"];
  EXPECT_GE(usage["prompt_tokens_details"]["cached_tokens"], answer["usage"]["prompt_tokens"]);
}

TEST_F(Server, StopTextsAndSeedsAreObeyed) {
  Json request = picture_request(12);
  const std::string whole = expected(12).text;
  // A character of ASCII, so that it is a text by itself.
  std::size_t at = 1;
  while (at < whole.size() && (whole[at] < 33 || whole[at] > 126)) ++at;
  ASSERT_LT(at, whole.size()) << whole;
  const std::string stop(1, whole[at]);
  request["stop"] = stop;
  const auto cut = client().Post(kCompletions, request.dump(), kJson);
  ASSERT_TRUE(cut);
  const Json json = parse_json(cut->body, "answer");
  EXPECT_EQ(json["choices"][0]["message"]["content"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");

  Json sampled = text_request("hello", 20);
  sampled["temperature"] = 1.5;
  const auto text_of = [&](const Json& asked) {
    const auto result = client().Post(kCompletions, asked.dump(), kJson);
    return result ? parse_json(result->body, "answer")["choices"][0]["message"].dump() : "";
  };
  EXPECT_NE(text_of(sampled), text_of(sampled));  // each request draws for itself
  sampled["seed"] = 5;
  EXPECT_EQ(text_of(sampled), text_of(sampled));
}

TEST_F(Server, MistakesAreAnsweredWithOneClearError) {
  httplib::Client http = client();
  expect_error(http.Post(kCompletions, "{", kJson), 400, "line 1, column 1");
  expect_error(http.Post(kCompletions, "{}", kJson), 400, "messages");
  expect_error(http.Post(kCompletions, "{}", "text/plain"), 415, "application/json");
  Json request = text_request("x", 4);
  request["model"] = "gpt";
  expect_error(http.Post(kCompletions, request.dump(), kJson), 404, "gpt");
  request = text_request("x", 4);
  request["tools"] = Json::array();
  expect_error(http.Post(kCompletions, request.dump(), kJson), 400, "tools");
  request = picture_request(4);
  request["messages"][0]["content"][0]["image_url"]["url"] = url_.substr(0, url_.size() - 40);
  expect_error(http.Post(kCompletions, request.dump(), kJson), 400, "content[0].image_url");
  std::string words;
  for (int i = 0; i < 600; ++i) words += "what ";
  request = text_request(words, 4);
  request["stream"] = true;  // even so a status, since it is known before the first event
  expect_error(http.Post(kCompletions, request.dump(), kJson), 400, "context");
  expect_error(http.Get("/nothing"), 404, "no such address");
  expect_error(http.Get(kCompletions), 404, "no such address");
  expect_error(http.Get("/health", httplib::Headers{{"Host", "example.org"}}), 403, "example.org");
  // And it goes on.
  const auto fine = http.Post(kCompletions, text_request("x", 2).dump(), kJson);
  ASSERT_TRUE(fine);
  EXPECT_EQ(fine->status, 200);
}

TEST_F(Server, BodiesBeyondTheLimitAreRefusedHoweverTheyCome) {
  const std::string large = text_request(std::string(2 << 20, 'x'), 4).dump();
  expect_error(client().Post(kCompletions, large, kJson), 413, "--max-body-mib");
  const auto in_chunks = client().Post(
      kCompletions,
      [&](std::size_t offset, httplib::DataSink& sink) {
        const std::size_t count = std::min<std::size_t>(65536, large.size() - offset);
        if (count == 0)
          sink.done();
        else
          sink.write(large.data() + offset, count);
        return true;
      },
      kJson);
  expect_error(in_chunks, 413, "--max-body-mib");
}

TEST_F(Server, AClientThatLeavesDisturbsNobody) {
  Json request = picture_request(200);
  request["stream"] = true;
  for (int i = 0; i < 3; ++i) {
    httplib::Request asked;
    asked.method = "POST";
    asked.path = kCompletions;
    asked.body = request.dump();
    asked.set_header("Content-Type", kJson);
    asked.content_receiver = [](const char*, std::size_t, std::uint64_t, std::uint64_t) {
      return false;
    };
    EXPECT_FALSE(client().send(asked));
  }
  const auto fine = client().Post(kCompletions, text_request("x", 2).dump(), kJson);
  ASSERT_TRUE(fine);
  EXPECT_EQ(fine->status, 200) << fine->body;
}

TEST_F(Server, ManyAtOnceAreAnsweredInTurnOrToldToComeLater) {
  constexpr int kClients = 6;
  std::vector<std::vector<int>> statuses(kClients);
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 3; ++round) {
        const auto result = client().Post(kCompletions, picture_request(20).dump(), kJson);
        ASSERT_TRUE(result);
        statuses[static_cast<std::size_t>(i)].push_back(result->status);
        const Json json = parse_json(result->body, "answer");
        if (result->status == 200) continue;
        EXPECT_EQ(result->status, 503);
        EXPECT_EQ(result->get_header_value("Retry-After"), "5");
        EXPECT_EQ(json["error"]["type"], "overloaded_error");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int answered = 0;
  for (const auto& list : statuses)
    answered += static_cast<int>(std::count(list.begin(), list.end(), 200));
  EXPECT_GE(answered, 1);
}

TEST_F(Server, EndsCleanlyAlsoInTheMiddleOfAnAnswer) {
  for (const int signal : {SIGTERM, SIGINT}) {
    ServerProcess server({"--model", files_.language, "--context", "512"});
    bool began = false;
    Json request = text_request("hello", 500);
    request["stream"] = true;
    request["temperature"] = 2.0;
    httplib::Request asked;
    asked.method = "POST";
    asked.path = kCompletions;
    asked.body = request.dump();
    asked.set_header("Content-Type", kJson);
    asked.content_receiver = [&](const char*, std::size_t, std::uint64_t, std::uint64_t) {
      if (!std::exchange(began, true)) server.send(signal);
      return true;
    };
    client(server.port()).send(asked);
    EXPECT_TRUE(began);
    EXPECT_EQ(server.stop(signal), 0) << server.errors();
  }
}

TEST_F(Server, WithoutAVisionFilePicturesAreRefused) {
  ServerProcess server({"--model", files_.language});
  expect_error(
      client(server.port()).Post(kCompletions, picture_request(4).dump(), kJson), 400, "--mmproj");
  EXPECT_EQ(server.stop(SIGINT), 0);
}

TEST_F(Server, ATakenPortIsNamedWithTheCure) {
  const ProgramResult result =
      run_shell(std::string(BINARY_ROOT) + "/pocketvlm-mobile serve --model " + files_.language +
                " --port " + std::to_string(server_->port()));
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.err.find(std::to_string(server_->port())), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("--port"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace pocketvlm
