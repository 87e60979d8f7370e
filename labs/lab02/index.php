<?php
// The shop of lab02: it trusts what visitors type, and that is the exercise. Never put it on a
// network; the lab's web server listens on the VM's own loopback address alone.
$db = new SQLite3('/var/lib/shop/shop.db', SQLITE3_OPEN_READONLY);
$search = $_GET['search'] ?? '';
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>The little shop</title>
<style>
  body { font: 16px/1.5 sans-serif; max-width: 40em; margin: 3em auto; color: #12344d; }
  td { padding: .3em 1em .3em 0; }
</style>
<h1>The little shop</h1>
<form><input name="search" value="<?= $search ?>"> <button>Search</button></form>
<?php
$rows = @$db->query("SELECT name, price FROM goods WHERE name LIKE '%$search%'");
if (!$rows) {
    die('<p>Database error: ' . $db->lastErrorMsg());
}
echo '<table>';
while ($row = $rows->fetchArray(SQLITE3_NUM)) {
    echo "<tr><td>$row[0]<td>$row[1]";
}
echo '</table>';
