mod b { wit_bindgen::generate!({ path: "../wit", world: "connector", ownership: Borrowing { duplicate_if_necessary: true } }); }
