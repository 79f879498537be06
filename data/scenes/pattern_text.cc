#include "base/error.h"
#include "data/scenes/language_patterns.h"
#include "data/scenes/scene_text.h"

namespace pocketvlm {

const std::map<std::string, LanguagePatterns>& language_patterns() {
  static const std::map<std::string, LanguagePatterns> table = {
      {"zh",
       {"图中有什么？", "图中有{0}。", "请详细描述这张图片。", "{1}有{0}。", "、", "和", "{1}个{0}", "这是什么？",
        "图中有{0}吗？", "{1}有{0}吗？", "图中有{1}个{0}吗？", "图中有几个{0}？", "图中有几个物体？",
        "{0}在哪里？", "{1}有什么？", "牌子上写着什么？", "{1}有牌子吗？", "牌子上写着{0}吗？", "有", "没有", "图中什么都没有。",
        {"左上方", "上方", "右上方", "左边", "中间", "右边", "左下方", "下方", "右下方"}}},
      {"ja",
       {"写真には何がありますか？", "写真：{0}。", "写真を詳しく説明してください。", "{1}：{0}。", "、", "と", "{0}（{1}）",
        "これは何ですか？", "写真に{0}はありますか？", "{1}に{0}はありますか？", "{0}は{1}つありますか？", "{0}はいくつありますか？",
        "物はいくつありますか？", "{0}はどこですか？", "{1}に何がありますか？", "看板には何と書いてありますか？", "{1}に看板はありますか？",
        "看板には{0}と書いてありますか？", "はい", "いいえ", "何もありません。",
        {"左上", "上", "右上", "左", "中央", "右", "左下", "下", "右下"}}},
      {"de",
       {"Was ist auf dem Bild?", "Auf dem Bild: {0}.", "Beschreibe das Bild genau.", "{1}: {0}.", ", ", " und ", "{0} ({1})",
        "Was ist das?", "Ist das auf dem Bild: {0}?", "Ist das {1}: {0}?", "Ist das {1}-mal da: {0}?", "Wie viele sind da: {0}?",
        "Wie viele Dinge sind da?", "Wo ist das: {0}?", "Was ist {1}?", "Was steht auf dem Schild?", "Ist ein Schild {1}?",
        "Steht {0} auf dem Schild?", "ja", "nein", "Auf dem Bild ist nichts.",
        {"oben links", "oben", "oben rechts", "links", "in der Mitte", "rechts", "unten links", "unten", "unten rechts"}}},
      {"fr",
       {"Qu'y a-t-il sur l'image ?", "Sur l'image : {0}.", "Décris l'image en détail.", "{1} : {0}.", ", ", " et ", "{0} ({1})",
        "Qu'est-ce que c'est ?", "Y a-t-il ceci sur l'image : {0} ?", "Y a-t-il ceci {1} : {0} ?", "Y a-t-il ceci {1} fois : {0} ?",
        "Combien y en a-t-il : {0} ?", "Combien d'objets y a-t-il ?", "Où est-ce : {0} ?", "Qu'y a-t-il {1} ?",
        "Que dit le panneau ?", "Y a-t-il un panneau {1} ?", "Le panneau dit-il {0} ?", "oui", "non", "Il n'y a rien sur l'image.",
        {"en haut à gauche", "en haut", "en haut à droite", "à gauche", "au centre", "à droite", "en bas à gauche", "en bas",
         "en bas à droite"}}},
      {"es",
       {"¿Qué hay en la imagen?", "En la imagen: {0}.", "Describe la imagen en detalle.", "{1}: {0}.", ", ", " y ", "{0} ({1})",
        "¿Qué es esto?", "¿Está esto en la imagen: {0}?", "¿Está esto {1}: {0}?", "¿Está esto {1} veces: {0}?",
        "¿Cuántos hay: {0}?", "¿Cuántos objetos hay?", "¿Dónde está: {0}?", "¿Qué hay {1}?", "¿Qué dice el cartel?",
        "¿Hay un cartel {1}?", "¿Dice el cartel {0}?", "sí", "no", "No hay nada en la imagen.",
        {"arriba a la izquierda", "arriba", "arriba a la derecha", "a la izquierda", "en el centro", "a la derecha",
         "abajo a la izquierda", "abajo", "abajo a la derecha"}}},
      {"ru",
       {"Что на картинке?", "На картинке: {0}.", "Подробно опиши картинку.", "{1}: {0}.", ", ", " и ", "{0} ({1})", "Что это?",
        "Есть ли на картинке: {0}?", "Есть ли {1}: {0}?", "Верно ли число {1}: {0}?", "Сколько на картинке: {0}?",
        "Сколько предметов на картинке?", "Где находится: {0}?", "Что {1}?", "Что написано на вывеске?", "Есть ли вывеска {1}?",
        "На вывеске написано {0}?", "да", "нет", "На картинке ничего нет.",
        {"слева вверху", "вверху", "справа вверху", "слева", "в центре", "справа", "слева внизу", "внизу", "справа внизу"}}},
      {"pt",
       {"O que há na imagem?", "Na imagem: {0}.", "Descreva a imagem em detalhe.", "{1}: {0}.", ", ", " e ", "{0} ({1})",
        "O que é isto?", "Isto está na imagem: {0}?", "Isto está {1}: {0}?", "Isto aparece {1} vezes: {0}?", "Quantos há: {0}?",
        "Quantos objetos há?", "Onde está: {0}?", "O que há {1}?", "O que diz a placa?", "Há uma placa {1}?", "A placa diz {0}?",
        "sim", "não", "Não há nada na imagem.",
        {"em cima à esquerda", "em cima", "em cima à direita", "à esquerda", "no centro", "à direita", "embaixo à esquerda",
         "embaixo", "embaixo à direita"}}},
      {"ko",
       {"그림에 무엇이 있나요?", "그림: {0}.", "그림을 자세히 설명하세요.", "{1}: {0}.", ", ", ", ", "{0} ({1})", "이것은 무엇인가요?",
        "그림에 있나요: {0}?", "{1}에 있나요: {0}?", "{1}개 있나요: {0}?", "몇 개 있나요: {0}?", "물건이 몇 개 있나요?",
        "어디에 있나요: {0}?", "{1}에 무엇이 있나요?", "표지판에 뭐라고 쓰여 있나요?", "{1}에 표지판이 있나요?",
        "표지판에 쓰여 있나요: {0}?", "네", "아니요", "그림에 아무것도 없습니다.",
        {"왼쪽 위", "위", "오른쪽 위", "왼쪽", "가운데", "오른쪽", "왼쪽 아래", "아래", "오른쪽 아래"}}},
      {"it",
       {"Cosa c'è nell'immagine?", "Nell'immagine: {0}.", "Descrivi l'immagine in dettaglio.", "{1}: {0}.", ", ", " e ",
        "{0} ({1})", "Che cos'è?", "C'è questo nell'immagine: {0}?", "C'è questo {1}: {0}?", "C'è questo {1} volte: {0}?",
        "Quanti ce ne sono: {0}?", "Quanti oggetti ci sono?", "Dov'è: {0}?", "Cosa c'è {1}?", "Cosa dice il cartello?",
        "C'è un cartello {1}?", "Il cartello dice {0}?", "sì", "no", "Non c'è niente nell'immagine.",
        {"in alto a sinistra", "in alto", "in alto a destra", "a sinistra", "al centro", "a destra", "in basso a sinistra",
         "in basso", "in basso a destra"}}},
      {"ar",
       {"ماذا يوجد في الصورة؟", "في الصورة: {0}.", "صف الصورة بالتفصيل.", "{1}: {0}.", "، ", " و ", "{0} ({1})", "ما هذا؟",
        "هل يوجد في الصورة: {0}؟", "هل يوجد {1}: {0}؟", "هل العدد {1}: {0}؟", "كم عدد: {0}؟", "كم عدد الأشياء؟", "أين يوجد: {0}؟",
        "ماذا يوجد {1}؟", "ماذا كتب على اللافتة؟", "هل توجد لافتة {1}؟", "هل كتب على اللافتة {0}؟", "نعم", "لا",
        "لا يوجد شيء في الصورة.",
        {"في أعلى اليسار", "في الأعلى", "في أعلى اليمين", "على اليسار", "في الوسط", "على اليمين", "في أسفل اليسار", "في الأسفل",
         "في أسفل اليمين"}}},
      {"hi",
       {"चित्र में क्या है?", "चित्र में: {0}।", "चित्र का विस्तार से वर्णन करें।", "{1}: {0}।", ", ", " और ", "{0} ({1})", "यह क्या है?",
        "क्या यह चित्र में है: {0}?", "क्या यह {1} है: {0}?", "क्या संख्या {1} है: {0}?", "कितने हैं: {0}?", "कितनी चीज़ें हैं?",
        "कहाँ है: {0}?", "{1} क्या है?", "बोर्ड पर क्या लिखा है?", "क्या {1} बोर्ड है?", "क्या बोर्ड पर {0} लिखा है?", "हाँ", "नहीं",
        "चित्र में कुछ नहीं है।",
        {"ऊपर बाईं ओर", "ऊपर", "ऊपर दाईं ओर", "बाईं ओर", "बीच में", "दाईं ओर", "नीचे बाईं ओर", "नीचे", "नीचे दाईं ओर"}}},
  };
  return table;
}

namespace {

std::string fill_in(const char* pattern, const std::string& name, const std::string& detail = "") {
  return fmt::format(fmt::runtime(pattern), name, detail);
}

}  // namespace

bool has_patterns(const std::string& language) { return language_patterns().count(language) != 0; }

QuestionAnswer say_in_pattern(const std::string& language,
                              const Query& query,
                              const SceneFacts& facts,
                              const std::vector<std::string>& names) {
  const LanguagePatterns& words = language_patterns().at(language);
  const auto name_of = [&](int class_index) -> const std::string& {
    return names[static_cast<std::size_t>(class_index)];
  };
  const auto counted = [&](int class_index, int count) {
    return count == 1 ? name_of(class_index)
                      : fill_in(words.counted, name_of(class_index), std::to_string(count));
  };
  const auto listed = [&](const std::vector<SceneFacts::Count>& items) {
    std::string text;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) text += i + 1 == items.size() ? words.last_separator : words.separator;
      text += counted(items[i].class_index, items[i].count);
    }
    return text;
  };
  const std::string name = query.class_index < 0 ? "" : name_of(query.class_index);
  const std::string place = query.cell < 0 ? "" : words.positions[static_cast<std::size_t>(query.cell)];
  const std::string yes = query.yes ? words.yes : words.no;
  const std::string count = std::to_string(query.count);
  switch (query.kind) {
    case Query::kName: return {words.name_prompt, query.items.empty() ? words.nothing : listed(query.items)};
    case Query::kCaption:
      return {words.caption_prompt,
              query.items.empty() ? words.nothing : fill_in(words.caption, listed(query.items))};
    case Query::kDetailed: {
      std::string text;
      const char* gap = language == "zh" || language == "ja" ? "" : " ";
      for (const SceneFacts::Group& group : facts.groups) {
        if (!text.empty()) text += gap;
        text += fill_in(words.detailed_item,
                        counted(group.class_index, group.count),
                        words.positions[static_cast<std::size_t>(group.cell)]);
      }
      return {words.detailed_prompt, text.empty() ? words.nothing : text};
    }
    case Query::kExists: return {fill_in(words.exists, name), yes};
    case Query::kExistsAt:
    case Query::kIsAt: return {fill_in(words.exists_at, name, place), yes};
    case Query::kExactCount: return {fill_in(words.exact_count, name, count), yes};
    case Query::kHowMany: return {fill_in(words.how_many, name), count};
    case Query::kHowManyObjects: return {words.how_many_objects, count};
    case Query::kWhere: return {fill_in(words.where, name), place};
    case Query::kWhatAt: return {fill_in(words.what_at, "", place), listed(query.items)};
    case Query::kWhichOfGroup:  // asks for a class of words that CLDR does not translate
      return {fill_in(words.exists, name), words.yes};
    case Query::kReadSign: return {words.read_sign, query.text};
    case Query::kSignAt: return {fill_in(words.sign_at, "", place), yes};
    case Query::kSignSays: return {fill_in(words.sign_says, query.text), yes};
  }
  fail("unknown query kind {}", static_cast<int>(query.kind));
}

}  // namespace pocketvlm
