#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// The embedded world: pictures composed of known objects, and what is said about them.
struct ScenesConfig {
  std::string sprites = "emoji";
  int64_t num_classes = 48;               // the first n of the curated list
  std::vector<std::string> classes;       // explicit list instead; English names
  int64_t min_objects = 1;
  int64_t max_objects = 4;
  bool allow_repeats = true;              // several objects of one class, for counting
  std::vector<int64_t> widths = {112};    // one (width, height) pair is drawn, same place in both lists
  std::vector<int64_t> heights = {112};
  double min_object_fraction = 0.25;      // of the short side
  double max_object_fraction = 0.45;
  double sign_probability = 0.0;          // a sign with a word, for OCR
  std::string backgrounds = "procedural";
  std::string photo_folder;               // for backgrounds = photos
  std::map<std::string, double> tasks = {{"caption", 1.0}};
  std::map<std::string, double> languages = {{"en", 1.0}};
  double false_object_rate = 0.0;         // captions: chance that a named object is not in the picture
  bool outlines = false;                  // the scene in words instead of a picture
  double missing_object_rate = 0.0;       // captions: chance that an object goes unnamed
  double invented_object_rate = 0.0;      // detailed: chance of an object too many in a sparse picture
  int64_t questions = 1;                  // of one picture, where the task is to answer questions

  void visit_fields(auto&& field) {
    field("sprites", sprites, "emoji: Noto Color Emoji glyphs; stamps: photographed cut-outs of tuxpaint-stamps-default",
          one_of({"emoji", "stamps"}));
    field("num_classes", num_classes, "object classes: the first n of the curated list", in_range(2, 1000));
    field("classes", classes, "explicit English class names instead of num_classes");
    field("min_objects", min_objects, "objects a picture, at least", in_range(0, 16));
    field("max_objects", max_objects, "objects a picture, at most", in_range(1, 16));
    field("allow_repeats", allow_repeats, "one class may appear several times in a picture");
    field("widths", widths, "picture widths in pixels; drawn together with heights");
    field("heights", heights, "picture heights in pixels; as many as widths");
    field("min_object_fraction", min_object_fraction, "smallest object side, as part of the short side", in_range(0.02, 1));
    field("max_object_fraction", max_object_fraction, "largest object side, as part of the short side", in_range(0.02, 1));
    field("sign_probability", sign_probability, "chance of a sign with a word (always for ocr tasks)", in_range(0, 1));
    field("backgrounds", backgrounds, "plain, procedural textures, or photos from photo_folder",
          one_of({"plain", "procedural", "photos"}));
    field("photo_folder", photo_folder, "folder of photographs used as backgrounds");
    field("tasks", tasks,
          "weights of: name (one word), caption (short, web-like), detailed, vqa, counting, position, ocr, yes_no, chat, text (caption without picture)");
    field("languages", languages, "weights of languages, CLDR codes");
    field("false_object_rate", false_object_rate, "captions: chance per named object that it is not in the picture", in_range(0, 1));
    field("outlines", outlines,
          "words instead of the picture: each question follows a list of the objects with their places, for a language model that "
          "has to answer about a given scene before it can see");
    field("missing_object_rate", missing_object_rate, "captions: chance per object that it goes unnamed (one always is named)", in_range(0, 1));
    field("invented_object_rate", invented_object_rate,
          "detailed: chance that the description of one or two objects ends with a companion that is not there, the habit of "
          "teachers that embellish sparse pictures", in_range(0, 1));
    field("questions", questions,
          "vqa, counting, position, yes_no: different questions about one picture in one conversation, at most; many make a "
          "short answer such as \"yes\" weigh as much as a description, for one picture's price",
          in_range(1, 64));
  }
  void validate(const std::string& path) const;
};

}  // namespace pocketvlm
