#include "data/scenes/cldr_names.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

constexpr const char* kCldr = "/usr/share/unicode/cldr/common/";
constexpr std::string_view kInherited = "↑↑↑";  // CLDR's mark for "as the parent language"

std::string replace_entities(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t end = text[i] == '&' ? text.find(';', i) : std::string_view::npos;
    if (end == std::string_view::npos) {
      result += text[i];
      continue;
    }
    const std::string_view entity = text.substr(i + 1, end - i - 1);
    if (entity == "amp") result += '&';
    else if (entity == "lt") result += '<';
    else if (entity == "gt") result += '>';
    else if (entity == "quot") result += '"';
    else if (entity == "apos") result += '\'';
    else if (entity.starts_with("#x")) {
      append_utf8(static_cast<std::uint32_t>(std::strtoul(std::string(entity.substr(2)).c_str(), nullptr, 16)), result);
    } else if (entity.starts_with("#")) {
      append_utf8(static_cast<std::uint32_t>(std::strtoul(std::string(entity.substr(1)).c_str(), nullptr, 10)), result);
    } else {
      result += text.substr(i, end - i + 1);
    }
    i = end;
  }
  return result;
}

std::string attribute(std::string_view tag, std::string_view name) {
  const std::string wanted = " " + std::string(name) + "=";
  const std::size_t place = tag.find(wanted);
  if (place == std::string_view::npos || place + wanted.size() >= tag.size()) return "";
  const std::size_t begin = place + wanted.size() + 1;
  const std::size_t end = tag.find(tag[begin - 1], begin);  // the same kind of quote
  return end == std::string_view::npos ? "" : replace_entities(tag.substr(begin, end - begin));
}

/// Calls visit(attributes, content) for every element of a name that has plain text content.
template <typename Visit>
void for_each_element(const std::string& path, std::string_view element, const Visit& visit) {
  const std::string text = read_file(path);
  const std::string_view view = text;
  const auto find_end = [&](std::string_view what, std::size_t from) {
    const std::size_t end = view.find(what, from);
    PV_CHECK(end != std::string_view::npos,
             "{}:{}: \"{}\" is missing; reinstall the Debian package unicode-cldr-core",
             path,
             1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(from), '\n'),
             what);
    return end;
  };
  const std::string closing = "</" + std::string(element) + ">";
  for (std::size_t place = view.find('<'); place != std::string_view::npos; place = view.find('<', place)) {
    if (view.substr(place).starts_with("<!--")) {
      place = find_end("-->", place);
      continue;
    }
    const std::size_t tag_end = find_end(">", place);
    const std::string_view tag = view.substr(place + 1, tag_end - place - 1);
    place = tag_end;
    if (!tag.starts_with(element) || tag.ends_with("/")) continue;
    if (tag.size() > element.size() && tag[element.size()] != ' ' && tag[element.size()] != '\n') continue;
    const std::size_t content_end = find_end(closing, tag_end);
    visit(tag, view.substr(tag_end + 1, content_end - tag_end - 1));
    place = content_end;
  }
}

std::string parent_of(const std::string& language) {
  const std::size_t bar = language.rfind('_');
  return bar == std::string::npos ? "" : language.substr(0, bar);
}

std::string trimmed(std::string text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

std::map<std::string, std::string> read_cldr_names(const std::string& path) {
  std::map<std::string, std::string> names;
  for_each_element(path, "annotation", [&](std::string_view tag, std::string_view content) {
    if (attribute(tag, "type") != "tts") return;
    // Some languages list several names, separated by commas: the first is the usual one.
    std::string name = replace_entities(content);
    name = trimmed(name.substr(0, name.find(',')));
    if (!name.empty() && name != kInherited) names[attribute(tag, "cp")] = name;
  });
  return names;
}

std::vector<std::string> class_names_in(const std::string& language,
                                        const std::vector<ObjectClass>& classes,
                                        const std::string& path) {
  std::vector<std::string> result;
  if (language == "en") {
    for (const ObjectClass& object_class : classes) result.push_back(object_class.name);
    return result;
  }
  PV_CHECK(std::filesystem::exists(std::string(kCldr) + "annotations/en.xml"),
           "{}annotations/en.xml: not found; install the Debian package unicode-cldr-core",
           kCldr);
  std::map<std::string, std::string> names;
  bool known = false;
  for (std::string code = language; !code.empty(); code = parent_of(code)) {
    for (const char* folder : {"annotations/", "annotationsDerived/"}) {
      const std::string file = kCldr + std::string(folder) + code + ".xml";
      if (!std::filesystem::exists(file)) continue;
      known = true;
      names.merge(read_cldr_names(file));  // what the nearer language says stays
    }
  }
  PV_CHECK(known,
           "{}.languages: {}annotations/{}.xml not found; name a language that Unicode CLDR has",
           path,
           kCldr,
           language);
  std::string missing;
  for (const ObjectClass& object_class : classes) {
    std::string key;
    append_utf8(object_class.annotation, key);
    const auto found = names.find(key);
    if (found == names.end()) missing += (missing.empty() ? "" : ", ") + object_class.name;
    else result.push_back(found->second);
  }
  PV_CHECK(missing.empty(),
           "{}.languages: CLDR has no \"{}\" names for: {}; leave the language or these classes out",
           path,
           language,
           missing);
  return result;
}

std::string language_name(const std::string& language) {
  const std::string file = std::string(kCldr) + "main/en.xml";
  std::string name = language;
  if (!std::filesystem::exists(file)) return name;
  for_each_element(file, "language", [&](std::string_view tag, std::string_view content) {
    if (attribute(tag, "type") == language && attribute(tag, "alt").empty()) name = std::string(content);
  });
  return name;
}

}  // namespace pocketvlm
