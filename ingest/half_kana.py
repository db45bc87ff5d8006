"""What follows what in half-width kana, in half bits: 0 is certain, z (35) as good as never.

Counted over the katakana words, hiragana and readings of encyclopaedia prose and over common names, written in
half-width kana, with and without small letters (banks write ｼﾖｳｼﾞ). Row 0 is the start of a run, the others are ｡ to
ﾟ, as are the columns.
"""

from __future__ import annotations

_ROWS = (
    "zzzzzfzyzzzzrnhi99bba9bbc998adf9efaabbkhc9b8cb9cedccecddfeeditz"
    "uuuuuhifmhkhgfdabaadc9bbdbc9afg9dcb9cdkgcbebeebeefddgebbacde96d"
    "uuuuuhifmhkhgfdabaadc9bbdbc9afg9dcb9cdkgcbebeebeefddgebbacde96d"
    "uuuuuhifmhkhgfdabaadc9bbdbc9afg9dcb9cdkgcbebeebeefddgebbacde96d"
    "uuuuuhifmhkhgfdabaadc9bbdbc9afg9dcb9cdkgcbebeebeefddgebbacde96d"
    "uuuuuhifmhkhgfdabaadc9bbdbc9afg9dcb9cdkgcbebeebeefddgebbacde96d"
    "zzzzzqrouqsqooli9acfb8bdhba68fbbh8g7bhkgf9defdbeec7bgcjkjlkgifl"
    "zzzzzqrouqsqooa4k7bdlffdmhdcbnhfggcdcdhgdehegfkajnjgomaa6acm5fl"
    "zzzzzturxlvtrr757hbbadebhdhb8hifdfdccceheeccijfhdhifnkca8dek6io"
    "zzzzznolrnqnml858cdccdeajhgc6llejicffahmfeeakcedbhjjmk9f6dgf9cj"
    "zzzzzrtpwrurqp86a8cngjlakdgc7gihjkcchbhcedhbpjjhfknnqob85eaj6gn"
    "zzzzzpqntpfpnn93bdehehjeehhfbijhkhfcfarifjgemejmlfklnleb5bed6ek"
    "zzzzzrspvrurpp84fabhicg9hdedahlfeefcddtdfbecdefdfhhgqn8a8dbd5gn"
    "zzzzztulxsvtrr74ae4ehehefegdcfk9gecchcjfgdgdfhfhjekmmpabacegcio"
    "zzzzzturxtvtrrb9ff1loanclgkeifrljomfdivsgimejjnmhmoprpkhdjji6io"
    "zzzzzwxuzvywuupoqoosrb96ee99feg4ac65qryvqbe9gdpsstrsusfgjjisolr"
    "zzzzzlzwzyzyxwnoeecghbe9eec97cfadda6cbeedbc9debgafhikiba6dcj8nu"
    "zzzzzxyvzwzwvv98kabgacecfgfbbehbgbdbccfifdfaafdfcciijr885bef6ms"
    "zzzzzjzwzizyxwebcfacdcbbbab8aef89aa7bfgjadfcggahejedhfce7feb8nu"
    "zzzzzrmczbdywwgfgch8dc8eb8a99fid8gfabaqkfghfjifg9jdim9dbchgi96t"
    "zzzzznwtzvxvttd9b7cpjfecmefd9he6fdaacekf8edckggfgggjtiaa6ccl6kq"
    "zzzzzwxuzwywuue8fcbm569dge9eagf9l9ecfekh7dfbgggjijfhudd9bfghalr"
    "zzzzzkzxzyzzxxa9kbfcibchchf9bhjajcebddnccbjbijhbcgacup9dcdg8b3u"
    "zzzzzjyvzwzbaafaefhjgdjamhdcdhg7hedgcemj9fhjmhhjajhdcdgdbhfh63s"
    "zzzzzqolrpmxvvicedfghfihlec89ef9aed8afnhedfeiaehiigkqg9abb9fh3s"
    "zzzzzhwtzvxvttcaf88pkfjlrkifeoj6id8ddeoffgihgnhiokkhqjah9clr54q"
    "zzzzziyvzxzxvvd9jf7hkejfjeiadjhghgd5feuhaahdhlaagfg9wlegeaal85t"
    "zzzzzjqvzwzxvvfak8chl78aigagfbhiaghaggjnafgfjiehgjklnncfc6ff65s"
    "zzzzzlzszezb98hccbhfg9cfkgjidoj7ig8fehrjhbigjm9ccicdcbhdgigla4u"
    "zzzzzuzizxzywwleiaaij88bebkfalk7ej97fipiideccddghggnwice8fegh4t"
    "zzzzzkvsytwusscbg6dki7demiffbmiaf7aeegkghffclhhejfinsfbc7dfo65p"
    "zzzzzturxtvtrrg8il7poec6hagbdqghgigheevj6eebifhqphfnjkcbc6df66o"
    "zzzzzrzxzzzzxxf9ibeml7ifaajegklcehhaaclk9fhflighcackxhecdicha3u"
    "zzzzzhwnz9x79aebcggbe7dgh6hgdih8hfedccrfb8ieghfiigeacdaede8i9gq"
    "zzzzznedzdhnuumhd8fg97a8bdcahfg6cb87ehsfdbfbhedilg9iuhfhhfjkkbr"
    "zzzzzmz8zyzyhwhcg5jucedepgldathiogghghujedqgljhigsdjiifecefn72t"
    "zzzzzdzxdyzzsxfcga7ijadghdcackhglfcdbbsjebgehgefihbipiaabddha3u"
    "zzzzzxuuzwzwvu89k6djg4d9e8dcdijdgag9ijzwceigaeffhgdjvkca8hhfbms"
    "zzzzzvxpzkyd8ec87dddbbg8hbd7aheeeadb6lkni9ggjdehgdbea8hkholfakr"
    "zzzzzopdsoqomme5e8c9edabfcdd4lmdjghfgjdngicaje8faefkmedfbdecbdj"
    "zzzzzitqwmusqq97cbchcbdbj5da6eeceabefgukbcedgmchfkhgqobb6ggoahn"
    "zzzzzdxuzvovuugacc8jd9d9hae9big9de79dblic6e8icdb9hagmahfdihfelr"
    "zzzzztyvzxzxwvebe9dkhgihldg8fbdfgfha8mpgjhihpgajhihapiaeelifb36"
    "zzzzzvwtzhxgddfbjiihng8iiffhfskelgg9fqorfhhimlgifflhgf8ici8ke35"
    "zzzzzx9azaaxkmhecciddhkanmh8dnpflgjalmrlrnpllohjkjonlpa8adelg45"
    "zzzzzuvsyuxutsechchqpjhfqkpihsnhqgifkkwlelcerrjfhslktreeacipb24"
    "zzzzzvwnzuxuttd9kfbiibog8hpdfkjkqff8pjxuhjkfsdjjniimkrfgcige734"
    "zzzzzpqvzxzxvvb9i89aidh9haaa8el7e5acedieggjgkjdkjjahkhda8cii8ms"
    "zzzzzgvsykwjahbachfffbedfeeb5fgc7bcaabhccehggkhgjnj5deabbdhk9jp"
    "zzzzzivkytwusshaffgljddeleea8efeff7effwfhdfdfgihkhigsg2fdgkhcjp"
    "zzzzzjurxtwtsrc7e8gifaddpfecche8fd79d8kebdjeljghimefsg887ddi7ip"
    "zzzzzpxuzvyvuuda9cdkiejemegcclfdedd3ccsi5glgmhgjjkghrgc7fifi8lr"
    "zzzzzvwtzvyvtte9jfhlicedkg86bljjhdkfeiljifhfki2igh8hkqedcjhgakr"
    "zzzzzstqwsvsrqf5bf3ejeccheifbgmai9dcfajfifeffhhijejnopdb9dggcho"
    "zzzzzuwszuxutsb9fe3npd8cn8l6lfegicmfgkxkjdegkjkhhgiqtrl8aggkajq"
    "zzzzziqvzxzxvvb8j6beg9ebgeda9fg8hdbcbcji9cdbggcgcgehimidd7jh6ms"
    "zzzzzfykzkzfcaa57gbcb8gcg9eb8ja9hbbbecmjdccbffcgfheefdhffhki7ms"
    "zzzzzjylzxzxwvgagddhg7d9e7da9ef8eda6cdie9bdabcbedfabpbffgiggdmt"
    "zzzzzdxuzwywuub7c9dhbceagdhc9fd6id6dabmjfaceggcgfjejmhbf6jkn8lr"
    "zzzzzhwtzvxvtt96da5ifddcfdd79hifhcbcebmgfccaecdgedfiomdcffed8kr"
    "zzzzzuosytwtssb7l8ghhbffbh7abbj5edegcewjfegfjqlgjgmgdj6ba7jkajp"
    "zzzzzlzwzyzywwsqhifija77c9c88ad8bd75dgfefac9ccelmghjcqfejjhlqnt"
    "zzzzzjebhdheebb8989eddadfcfaajhbbdccddmgccgehhbfefcbgd9a8bba8qx"
    "zzzzzsxtznylei95bacdfdgbfifb9hfcdccaedlegegcifijgilkhk88898h7lr"
)
_FIRST, _COUNT = ord("｡"), 63


def half_kana_bits(run: str) -> float:
    """Bits of a run of half-width kana."""
    bits, row = 0, 0
    for character in run:
        column = ord(character) - _FIRST
        bits += int(_ROWS[row * _COUNT + column], 36)
        row = column + 1
    return bits / 2
