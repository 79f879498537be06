#include "rlaif/picture_field.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kLongestPath = 100;

bool is_base64(const std::string& text) {
  return text.size() > kLongestPath && std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '+' || c == '/' || c == '=' || c == '\n' || c == '\r';
         });
}

}  // namespace

PictureField picture_field(const Json& row, const std::string& where) {
  const auto has = [](const Json& object, const char* name) { return object.contains(name) && !object[name].is_null(); };
  const auto text = [&](const Json& object, const char* name) {
    PV_CHECK(object[name].is_string(), "{}: \"{}\" is no text", where, name);
    return object[name].get<std::string>();
  };
  if (has(row, "image_path")) return {text(row, "image_path"), ""};
  if (!has(row, "image")) return {};
  if (!row["image"].is_object()) {
    std::string image = text(row, "image");
    return is_base64(image) ? PictureField{"", std::move(image)} : PictureField{std::move(image), ""};
  }
  const Json& image = row["image"];
  if (has(image, "bytes")) return {"", text(image, "bytes")};
  PV_CHECK(has(image, "path"), "{}: image has neither \"bytes\" nor \"path\"", where);
  return {text(image, "path"), ""};
}

}  // namespace pocketvlm
