#include "rlaif/chat_client.h"

#include <gtest/gtest.h>

#include <cmath>

#include <chrono>
#include <cstdlib>
#include <set>

#include "base/error.h"
#include "loopback_server.h"
#include "rlaif/judge.h"

namespace pocketvlm {
namespace {

using test::LoopbackServer;

ServerConfig quick() {
  ServerConfig config;
  config.timeout_s = 5;
  config.attempts = 3;
  config.first_wait_s = 0.01;
  return config;
}

std::vector<ChatQuestion> questions(int count) {
  std::vector<ChatQuestion> all;
  for (int i = 0; i < count; ++i) {
    ChatQuestion question;
    question.text = "question " + std::to_string(i);
    all.push_back(std::move(question));
  }
  return all;
}

std::string error_of(ChatClient& client, int count = 1) {
  try {
    client.ask(questions(count));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void ok(httplib::Response& response, const std::string& body) { response.set_content(body, "application/json"); }

TEST(ChatClient, GivesRepliesInOrderHoweverTheyCome) {
  LoopbackServer server([](const auto& request, auto& response) {
    const std::string question = LoopbackServer::question_of(request);
    // The first questions take longest.
    std::this_thread::sleep_for(std::chrono::milliseconds(60 - 5 * std::stoi(question.substr(9))));
    ok(response, LoopbackServer::reply("re: " + question));
  });
  ServerConfig config = quick();
  config.concurrency = 4;
  ChatClient client(server.url() + "/", config);
  const std::vector<ChatReply> replies = client.ask(questions(12));
  ASSERT_EQ(replies.size(), 12u);
  for (int i = 0; i < 12; ++i)
    EXPECT_EQ(replies[static_cast<std::size_t>(i)].text, "re: question " + std::to_string(i));
  EXPECT_EQ(client.traffic().requests, 12);
  EXPECT_LE(server.most_open(), 4);
  EXPECT_GE(server.most_open(), 2);
}

TEST(ChatClient, SendsPictureKeyAndModel) {
  setenv("POCKETVLM_TEST_KEY", "secret", 1);
  Json seen;
  std::string key;
  LoopbackServer server([&](const auto& request, auto& response) {
    seen = Json::parse(request.body);
    key = request.get_header_value("Authorization");
    ok(response, LoopbackServer::reply("fine"));
  });
  ServerConfig config = quick();
  config.model = "some-model";
  config.api_key_variable = "POCKETVLM_TEST_KEY";
  ChatClient client(server.url(), config);
  ChatQuestion question;
  question.text = "what?";
  question.image_url = image_data_url(Image(2, 3));
  question.first_token = true;
  client.ask({question});
  EXPECT_EQ(key, "Bearer secret");
  EXPECT_EQ(seen.at("model"), "some-model");
  EXPECT_EQ(seen.at("temperature"), 0);
  EXPECT_EQ(seen.at("top_logprobs"), 20);
  const Json& content = seen.at("messages").at(0).at("content");
  EXPECT_TRUE(content.at(0).at("image_url").at("url").get<std::string>().starts_with("data:image/png;base64,iVBOR"));
  config.api_key_variable = "POCKETVLM_NO_SUCH_KEY";
  EXPECT_THROW(ChatClient(server.url(), config), Error);
  EXPECT_THROW(ChatClient("127.0.0.1:80", quick()), Error);
}

// Every fault once, then a good reply: the caller sees nothing of it, the traffic does.
struct Fault {
  const char* name;
  const char* counted;
  std::function<void(const httplib::Request&, httplib::Response&)> make;
};

class Faults : public testing::TestWithParam<Fault> {};

TEST_P(Faults, AreTriedAgain) {
  std::atomic<int> asked{0};
  LoopbackServer server([&](const auto& request, auto& response) {
    if (asked++ == 0) return GetParam().make(request, response);
    ok(response, LoopbackServer::reply("fine"));
  });
  ServerConfig config = quick();
  config.timeout_s = 0.5;
  ChatClient client(server.url(), config);
  EXPECT_EQ(client.ask(questions(1)).at(0).text, "fine");
  const ChatTraffic traffic = client.traffic();
  EXPECT_EQ(traffic.requests, 2);
  EXPECT_EQ(traffic.tries_again, 1);
  ASSERT_EQ(traffic.failures.size(), 1u) << traffic.to_json();
  EXPECT_EQ(traffic.failures.begin()->first, GetParam().counted);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    Faults,
    testing::Values(
        Fault{"slow", "timeout", [](const auto&, auto& response) {
                std::this_thread::sleep_for(std::chrono::milliseconds(900));
                ok(response, LoopbackServer::reply("too late"));
              }},
        Fault{"drips", "timeout", [](const auto&, auto& response) {
                response.set_content_provider(
                    std::size_t{1000}, "application/json", [](std::size_t, std::size_t, httplib::DataSink& sink) {
                      std::this_thread::sleep_for(std::chrono::milliseconds(60));
                      return sink.write(" ", 1);
                    });
              }},
        Fault{"busy", "status 429", [](const auto&, auto& response) {
                response.status = 429;
                response.set_header("Retry-After", "0");
                ok(response, R"({"error": {"message": "slow down"}})");
              }},
        Fault{"broken", "status 500", [](const auto&, auto& response) { response.status = 500; }},
        Fault{"cut", "connection", [](const auto&, auto& response) {
                response.set_content_provider(
                    std::size_t{1000}, "application/json", [](std::size_t, std::size_t, httplib::DataSink& sink) {
                      sink.write("{", 1);
                      return false;
                    });
              }},
        Fault{"badjson", "damaged reply", [](const auto&, auto& response) { ok(response, "{\"choices\": [{"); }},
        Fault{"nochoice", "damaged reply", [](const auto&, auto& response) { ok(response, "{\"choices\": []}"); }},
        Fault{"wrongchoice", "damaged reply", [](const auto&, auto& response) {
                ok(response, R"({"choices": [{"index": 3, "message": {"content": "no"}}]})");
              }}),
    [](const auto& info) { return info.param.name; });

TEST(ChatClient, ChecksTheIdsOfAServerThatEchoesThem) {
  std::atomic<int> asked{0};
  LoopbackServer server([&](const auto& request, auto& response) {
    const bool wrong = ++asked == 2;
    response.set_header("X-Request-Id", wrong ? "pocketvlm-77" : request.get_header_value("X-Request-Id"));
    ok(response, LoopbackServer::reply(wrong ? "of another" : "fine"));
  });
  ServerConfig config = quick();
  config.concurrency = 1;
  ChatClient client(server.url(), config);
  for (const ChatReply& reply : client.ask(questions(3))) EXPECT_EQ(reply.text, "fine");
  EXPECT_EQ(client.traffic().requests, 4);
  EXPECT_EQ(client.traffic().failures, (std::map<std::string, std::int64_t>{{"reply to another request", 1}}));
}

// OpenAI writes ids of its own, and so do many proxies.
TEST(ChatClient, IgnoresTheIdsOfAServerThatWritesItsOwn) {
  std::atomic<int> asked{0};
  LoopbackServer server([&](const auto&, auto& response) {
    response.set_header("x-request-id", "req_" + std::to_string(++asked));
    ok(response, LoopbackServer::reply("fine"));
  });
  ChatClient client(server.url(), quick());
  for (const ChatReply& reply : client.ask(questions(5))) EXPECT_EQ(reply.text, "fine");
  EXPECT_EQ(client.traffic().requests, 5);
  EXPECT_TRUE(client.traffic().failures.empty());
}

TEST(ChatClient, SaysWhichRepliesAreCut) {
  for (const char* reason : {"length", "stop"}) {
    LoopbackServer server([&](const auto&, auto& response) {
      Json reply = Json::parse(LoopbackServer::reply("a text"));
      reply["choices"][0]["finish_reason"] = reason;
      ok(response, reply.dump());
    });
    ChatClient client(server.url(), quick());
    EXPECT_EQ(client.ask(questions(1)).at(0).cut, std::string(reason) == "length");
  }
}

TEST(ChatClient, GivesUpAfterItsTries) {
  LoopbackServer server([](const auto&, auto& response) {
    response.status = 503;
    ok(response, R"({"error": {"message": "model is loading"}})");
  });
  ChatClient client(server.url(), quick());
  const std::string error = error_of(client);
  for (const char* part : {"127.0.0.1", "after 3 tries", "status 503", "model is loading", "--resume"})
    EXPECT_NE(error.find(part), std::string::npos) << error;
  EXPECT_EQ(server.requests(), 3);
}

TEST(ChatClient, SaysThatNobodyListens) {
  std::string url;
  { url = LoopbackServer([](const auto&, auto&) {}).url(); }
  ChatClient client(url, quick());
  const std::string error = error_of(client);
  EXPECT_NE(error.find("after 3 tries"), std::string::npos) << error;
  EXPECT_NE(error.find("connection"), std::string::npos) << error;
}

TEST(ChatClient, DoesNotRepeatWhatWasRefused) {
  LoopbackServer server([](const auto&, auto& response) {
    response.status = 401;
    ok(response, R"({"error": {"message": "wrong key"}})");
  });
  ChatClient client(server.url(), quick());
  const std::string error = error_of(client, 5);
  EXPECT_NE(error.find("status 401: wrong key"), std::string::npos) << error;
  EXPECT_LE(server.requests(), 5);
}

TEST(ChatClient, TellsTooLongQuestionsApart) {
  LoopbackServer server([](const auto&, auto& response) {
    response.status = 400;
    ok(response, R"({"error": {"message": "maximum context length is 2048 tokens"}})");
  });
  ChatClient client(server.url(), quick());
  const ChatReply reply = client.ask(questions(1)).at(0);
  EXPECT_EQ(reply.refused, "maximum context length is 2048 tokens");
  EXPECT_TRUE(reply.too_long);
  EXPECT_EQ(read_verdict(reply).problem.find("too long for the judge"), 0u);
}

TEST(ChatClient, SaysWhichQuestionsAreRefused) {
  LoopbackServer server([](const auto& request, auto& response) {
    if (LoopbackServer::question_of(request) != "question 1") return ok(response, LoopbackServer::reply("Yes"));
    response.status = 400;
    ok(response, R"({"error": {"message": "content policy"}})");
  });
  ChatClient client(server.url(), quick());
  const std::vector<ChatReply> replies = client.ask(questions(3));
  EXPECT_EQ(replies[0].refused, "");
  EXPECT_EQ(replies[1].refused, "content policy");
  EXPECT_FALSE(replies[1].too_long);
  EXPECT_EQ(read_verdict(replies[1]).problem, "refused by the server: content policy");
  EXPECT_EQ(client.traffic().requests, 3);
}

TEST(ChatClient, KeepsToTheLimitAMinute) {
  LoopbackServer server([](const auto&, auto& response) { ok(response, LoopbackServer::reply("fine")); });
  ServerConfig config = quick();
  config.requests_per_minute = 600;  // one in 0.1 s
  ChatClient client(server.url(), config);
  const auto begin = std::chrono::steady_clock::now();
  client.ask(questions(6));
  EXPECT_GE(seconds_since(begin), 0.5);
}

TEST(ServerJudge, ReadsProbabilitiesOfBothSpellings) {
  LoopbackServer server([](const auto& request, auto& response) {
    const bool cat = LoopbackServer::question_of(request).find("cat") != std::string::npos;
    ok(response, LoopbackServer::reply(cat ? "Yes" : "No", cat ? 0.8 : 0.3));
  });
  ServerJudge judge(server.url(), quick(), " Please answer yes or no.");
  const std::vector<Verdict> verdicts = judge.verdicts(Image(2, 2), {"is there a cat?", "is there a dog?"});
  EXPECT_NEAR(verdicts[0].p_yes, 0.8, 1e-9);
  EXPECT_NEAR(verdicts[0].p_no, 0.2, 1e-9);
  EXPECT_TRUE(verdicts[0].accepted());
  EXPECT_FALSE(verdicts[0].accepted(0.7));
  EXPECT_NEAR(verdicts[1].p_yes, 0.3, 1e-9);
  EXPECT_FALSE(verdicts[1].accepted());
  EXPECT_EQ(judge.traffic().at("requests"), 2);
}

TEST(ServerJudge, ReadsWordsWhereNoProbabilitiesAreTold) {
  const auto said = [](const char* text) {
    ChatReply reply;
    reply.text = text;
    return read_verdict(reply);
  };
  for (const char* yes : {"Yes", "yes.", "\"Yes\", there is", " **Yes**"}) EXPECT_TRUE(said(yes).accepted()) << yes;
  for (const char* no : {"No", "no, there is none"}) {
    EXPECT_FALSE(said(no).accepted()) << no;
    EXPECT_TRUE(said(no).asked()) << no;
  }
  for (const char* unclear : {"", "Maybe", "There is a cat", "None", "Yesterday"}) {
    EXPECT_FALSE(said(unclear).asked()) << unclear;
    EXPECT_FALSE(said(unclear).accepted()) << unclear;
    EXPECT_EQ(said(unclear).problem.find("neither yes nor no"), 0u) << unclear;
  }
}

TEST(ServerJudge, ReadsPiecesOfWordsWhereTheVocabularyHasNoMore) {
  const auto said = [](const char* text) {
    ChatReply reply;
    reply.text = text;
    reply.first_token = {{" n", std::log(0.5)}, {"y", std::log(0.25)}, {"ye", std::log(0.125)}, {"a", std::log(0.1)}};
    return read_verdict(reply);
  };
  EXPECT_NEAR(said("no").p_no, 0.5, 1e-12);
  EXPECT_NEAR(said("no").p_yes, 0.375, 1e-12);
  EXPECT_FALSE(said("no").accepted());
  // Without a yes or no in the answer a piece may begin any word.
  EXPECT_FALSE(said("nine cats").asked());
}

}  // namespace
}  // namespace pocketvlm
